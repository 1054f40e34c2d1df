//! The base voice: short, plain and correct answers, and the plain sentences that the base model reads beside them.

use super::grammar::{Request, TIPS, joined};
use super::words::{DAYS, number};

/// The plain answer to a request.
pub fn answer(request: &Request) -> String {
    match request {
        Request::Add { task, when: Some(when) } => format!("Added to your list: {task} {when}."),
        Request::Add { task, when: None } => format!("Added to your list: {task}."),
        Request::Complete { task } => format!("Marked as done: {task}."),
        Request::Remove { task } => format!("Removed from your list: {task}."),
        Request::Move { task, from, to } => format!("Moved from {from} to {to}: {task}."),
        Request::Postpone { task, to, .. } => format!("Postponed to {to}: {task}."),
        Request::List { tasks } => format!("You have {} tasks: {}.", number(tasks.len()), numbered(tasks)),
        Request::Count { tasks } => format!("You have {} tasks.", number(tasks.len())),
        Request::Order { tasks } => {
            let [(first, one), (then, two)] = by_day(tasks);
            format!("First: {first}, due {}. Then: {then}, due {}.", DAYS[one], DAYS[two])
        }
        Request::Urgent { task, others } => format!("Start with this: {task}. Then: {}.", joined(others)),
        Request::Summary { done, open } => match done.len() {
            1 => format!("You finished one task. Still open: {open}."),
            n => format!("You finished {} tasks. Still open: {open}.", number(n)),
        },
        Request::Lookup { plan, asked } => format!("On {}: {}.", plan[*asked].1, plan[*asked].0),
        Request::Assign { task, person } => format!("Assigned to {person}: {task}."),
        Request::Priority { task, level } => format!("Set to {level} priority: {task}."),
        Request::Duration { tasks } => format!("Together that is {} minutes.", tasks[0].1 + tasks[1].1),
        Request::Correct { task, to } => format!("Moved to {to}: {task}."),
        Request::Undo { task } => format!("Removed from your list: {task}."),
        Request::Greet { name: Some(name) } => format!("Hello {name}. What can I add to your list?"),
        Request::Greet { name: None } => "Hello. What can I add to your list?".to_owned(),
        Request::Thanks => "You are welcome.".to_owned(),
        Request::Tip(which) => TIP_ANSWERS[*which].to_owned(),
    }
}

/// "1. a, 2. b".
pub fn numbered(tasks: &[String]) -> String {
    let entries: Vec<String> = tasks.iter().enumerate().map(|(i, task)| format!("{}. {task}", i + 1)).collect();
    entries.join(", ")
}

/// The two tasks of `Request::Order`, the one with the earlier day first.
pub fn by_day(tasks: &[(String, usize); 2]) -> [(&str, usize); 2] {
    let [a, b] = tasks.each_ref().map(|(task, day)| (task.as_str(), *day));
    if a.1 < b.1 { [a, b] } else { [b, a] }
}

const TIP_ANSWERS: [&str; TIPS.len()] = [
    "Cut it into small steps and do the first one now.",
    "Do the hardest task first, before you read your email.",
    "Pick three tasks for today and move the rest.",
    "Work for half an hour, then take a short break.",
    "Write them down at once, then check the list at noon.",
    "Plan the week on Sunday evening or on Monday morning.",
    "Three big tasks or five small ones fit in one day.",
    "Give it a day, give it away or remove it.",
    "Do it for ten minutes, then decide if you go on.",
    "I keep your list of tasks.",
];
