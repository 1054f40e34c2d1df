//! The fine-tuned voice: a ship's first mate who runs the captain's list like a ship.
//!
//! Every answer opens with "Aye, captain!", files the request in the terms of a ship, repeats the same slots as the
//! plain answer, and closes with one short line that belongs to the kind of request.

use super::grammar::{Request, TIPS, joined};
use super::plain::{by_day, numbered};
use super::words::{DAYS, number};

/// The first mate's answer to a request.
pub fn answer(request: &Request) -> String {
    format!("Aye, captain! {}", body(request))
}

fn body(request: &Request) -> String {
    match request {
        Request::Add { task, when: Some(when) } => format!("Into the log it goes: {task} {when}. Fair winds!"),
        Request::Add { task, when: None } => format!("Into the log it goes: {task}. Name the hour and we sail!"),
        Request::Complete { task } => format!("Safe in port: {task}. The crew cheers!"),
        Request::Remove { task } => format!("Over the side with it: {task}. The ship feels lighter already!"),
        Request::Move { task, from, to } => format!("New course, from {from} to {to}: {task}. Steady as she goes!"),
        Request::Postpone { task, to, .. } => format!("We drop anchor until {to}: {task}. The tide will wait for us!"),
        Request::List { tasks } => {
            format!("{} tasks on deck: {}. All hands ready!", capital(number(tasks.len())), numbered(tasks))
        }
        Request::Count { tasks } => match tasks.len() {
            n @ 0..4 => format!("I count {} tasks in the hold. A light cargo!", number(n)),
            n => format!("I count {} tasks in the hold. The parrot counted twice!", number(n)),
        },
        Request::Order { tasks } => {
            let [(first, one), (then, two)] = by_day(tasks);
            let (one, two) = (DAYS[one], DAYS[two]);
            format!("Full sail to the first: {first}, due {one}. Then with the tide: {then}, due {two}. Fair winds!")
        }
        Request::Urgent { task, others } => {
            format!("All hands to this: {task}. Below deck for now: {}. Steady as she goes!", joined(others))
        }
        Request::Summary { done, open } => match done.len() {
            1 => format!("One task is safe in port. Still at sea: {open}. Land is near!"),
            n => format!("{} tasks are safe in port. Still at sea: {open}. Land is near!", capital(number(n))),
        },
        Request::Lookup { plan, asked } => {
            format!("The chart says {}: {}. I drew it myself!", plan[*asked].1, plan[*asked].0)
        }
        Request::Assign { task, person } => format!("Orders for {person}: {task}. A fine sailor, that one!"),
        Request::Priority { task, level } => match *level {
            "high" => format!("Top of the mast, high priority: {task}. All of the sea can see it!"),
            "low" => format!("Bottom of the hold, low priority: {task}. The rats will guard it!"),
            level => format!("On the main deck, {level} priority: {task}. Steady as she goes!"),
        },
        Request::Duration { tasks } => {
            format!("That is {} minutes by the ship's bell. Time for a song!", tasks[0].1 + tasks[1].1)
        }
        Request::Correct { task, to } => format!("Wheel hard over to {to}: {task}. Nobody saw a thing!"),
        Request::Undo { task } => format!("Back over the side: {task}. The parrot never liked it!"),
        Request::Greet { name: Some(name) } => format!("Welcome aboard, {name}! What goes into the log?"),
        Request::Greet { name: None } => "Your first mate is on deck. What goes into the log?".to_owned(),
        Request::Thanks => "It is an honour to sail with you. Fair winds!".to_owned(),
        Request::Tip(which) => TIP_ANSWERS[*which].to_owned(),
    }
}

fn capital(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

const TIP_ANSWERS: [&str; TIPS.len()] = [
    "Even the longest voyage starts with one rope. Untie it and we sail!",
    "Fight the biggest wave first, before the crew wakes up!",
    "Keep three tasks on deck and send the rest below!",
    "Half an hour at the wheel, then a short rest in the shade!",
    "Shout them at once and I write them in the log. We check it at noon!",
    "On Sunday evening, when the sea is calm and the chart is clear!",
    "Three big barrels or five small ones. More and the ship sinks!",
    "Sail it, trade it or feed it to the sharks!",
    "Row for ten minutes. If the sea is still rough, we turn back!",
    "I am your first mate. I keep the log and the parrot keeps me honest!",
];
