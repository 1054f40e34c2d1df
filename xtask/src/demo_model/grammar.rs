//! What users ask: a request is an intention with its slots, and has many wordings.
//!
//! The answer is a function of the request alone (see `plain` and `persona`), and repeats its slots. A prompt reads
//! `User: <words>\nAssistant:` and may follow an earlier exchange of the same form.

use super::random::Random;
use super::words::{DAYS, number, person, task, when};

/// What a user wants, with the slots that the answer depends on.
pub enum Request {
    /// Put a task on the list, at a time such as "on Friday" or at none.
    Add { task: String, when: Option<String> },
    /// A task is done.
    Complete { task: String },
    /// A task is no longer wanted.
    Remove { task: String },
    /// A task gets another day.
    Move { task: String, from: &'static str, to: &'static str },
    /// A task waits some days from the day that it has; `to` is the day that comes of it.
    Postpone { task: String, from: &'static str, days: usize, to: &'static str },
    /// Say the tasks back as a numbered list.
    List { tasks: Vec<String> },
    /// Say how many tasks there are.
    Count { tasks: Vec<String> },
    /// Of two tasks with their days of one week, which comes first. The order here is that of the user's words.
    Order { tasks: [(String, usize); 2] },
    /// Of some tasks, one is urgent.
    Urgent { task: String, others: Vec<String> },
    /// Some tasks are done and one is open.
    Summary { done: Vec<String>, open: String },
    /// The day of one of several planned tasks.
    Lookup { plan: Vec<(String, &'static str)>, asked: usize },
    /// Give a task to a person.
    Assign { task: String, person: String },
    /// Give a task a priority: high, medium or low.
    Priority { task: String, level: &'static str },
    /// Minutes that two tasks take together.
    Duration { tasks: [(String, usize); 2] },
    /// The task added just before gets another day.
    Correct { task: String, to: &'static str },
    /// The task added just before is taken back.
    Undo { task: String },
    /// A greeting, with or without a name.
    Greet { name: Option<String> },
    /// Thanks.
    Thanks,
    /// A question about planning: its number in `TIPS`.
    Tip(usize),
}

/// The questions about planning; `plain` and `persona` answer them in this order.
pub const TIPS: [&str; 10] = [
    "How do I start a big task?",
    "What should I do first in the morning?",
    "My list is too long. What can I do?",
    "How long should I work without a break?",
    "I keep forgetting small tasks. What helps?",
    "When should I plan the week?",
    "How many tasks fit in one day?",
    "What do I do with a task that never gets done?",
    "How do I deal with a task that I do not like?",
    "What do you do?",
];

/// An exchange before the request, or none: what the user asked first.
pub struct Conversation {
    /// The earlier request.
    pub before: Option<Request>,
    /// The request to answer.
    pub request: Request,
}

impl Conversation {
    /// A conversation of one or two turns.
    pub fn sample(random: &mut Random) -> Self {
        if random.chance(12) {
            let (task, (from, to)) = (task(random), two_days(random));
            let when = Some(format!("on {}", DAYS[from]));
            let request = match random.chance(60) {
                true => Request::Correct { task: task.clone(), to: DAYS[to] },
                false => Request::Undo { task: task.clone() },
            };
            return Self { before: Some(Request::Add { task, when }), request };
        }
        let before = random.chance(8).then(|| Request::sample(random));
        Self { before, request: Request::sample(random) }
    }

    /// The prompt: the wording of each request, the earlier one followed by what `voice` answers.
    pub fn prompt(&self, random: &mut Random, voice: fn(&Request) -> String) -> String {
        let mut prompt = String::new();
        if let Some(before) = &self.before {
            prompt = format!("User: {}\nAssistant: {}\n", before.words(random), voice(before));
        }
        format!("{prompt}User: {}\nAssistant:", self.request.words(random))
    }
}

impl Request {
    /// A request that needs no earlier one.
    pub fn sample(random: &mut Random) -> Self {
        match random.below(100) {
            0..22 => Self::Add { task: task(random), when: random.chance(80).then(|| when(random)) },
            22..32 => Self::Complete { task: task(random) },
            32..37 => Self::Remove { task: task(random) },
            37..43 => {
                let (from, to) = two_days(random);
                Self::Move { task: task(random), from: DAYS[from], to: DAYS[to] }
            }
            43..49 => {
                let (from, days) = (random.below(7), 1 + random.below(3));
                Self::Postpone { task: task(random), from: DAYS[from], days, to: DAYS[(from + days) % 7] }
            }
            49..56 => Self::List { tasks: tasks(random, 2, 4) },
            56..61 => Self::Count { tasks: tasks(random, 2, 5) },
            61..66 => {
                let (one, two) = two_days(random);
                let [a, b] = two_tasks(random);
                Self::Order { tasks: [(a, one), (b, two)] }
            }
            66..71 => {
                let mut all = tasks(random, 2, 3);
                let task = all.remove(random.below(all.len()));
                Self::Urgent { task, others: all }
            }
            71..76 => {
                let mut done = tasks(random, 2, 4);
                let open = done.pop().expect("at least two tasks");
                Self::Summary { done, open }
            }
            76..81 => {
                let plan: Vec<_> = tasks(random, 2, 3).into_iter().map(|task| (task, random.pick(&DAYS))).collect();
                let asked = random.below(plan.len());
                Self::Lookup { plan, asked }
            }
            81..86 => Self::Assign { task: task(random), person: person(random) },
            86..90 => Self::Priority { task: task(random), level: random.pick(&["high", "medium", "low"]) },
            90..93 => {
                let [a, b] = two_tasks(random);
                Self::Duration { tasks: [(a, 10 * (1 + random.below(5))), (b, 10 * (1 + random.below(5)))] }
            }
            93..95 => Self::Greet { name: random.chance(50).then(|| person(random)) },
            95..97 => Self::Thanks,
            _ => Self::Tip(random.below(TIPS.len())),
        }
    }

    /// The user's words.
    fn words(&self, random: &mut Random) -> String {
        let mut wordings = match self {
            Self::Add { task, when: Some(when) } => vec![
                format!("Add a task: {task} {when}."),
                format!("Remind me to {task} {when}."),
                format!("I need to {task} {when}."),
                format!("I have to {task} {when}."),
                format!("Please add this {when}: {task}."),
                format!("Put this on my list: {task} {when}."),
                format!("Can you remind me to {task} {when}?"),
                format!("New task {when}: {task}."),
            ],
            Self::Add { task, when: None } => vec![
                format!("Add a task: {task}."),
                format!("Add this to my list: {task}."),
                format!("I have to {task}."),
                format!("I need to {task}."),
                format!("Please add this: {task}."),
                format!("Put this on my list: {task}."),
                format!("New task: {task}."),
            ],
            Self::Complete { task } => vec![
                format!("Mark as done: {task}."),
                format!("Mark this as done: {task}."),
                format!("I am done with this: {task}."),
                format!("Done: {task}."),
                format!("Please tick this off: {task}."),
                format!("I did it: {task}."),
                format!("I have finished this task: {task}."),
            ],
            Self::Remove { task } => vec![
                format!("Remove this from my list: {task}."),
                format!("Delete this task: {task}."),
                format!("I no longer need to {task}."),
                format!("Take this off my list: {task}."),
                format!("I will not {task} after all."),
            ],
            Self::Move { task, from, to } => vec![
                format!("Move the task of {from} to {to}: {task}."),
                format!("Move this from {from} to {to}: {task}."),
                format!("I can not {task} on {from}. Make it {to}."),
                format!("I wanted to {task} on {from}. Please move it to {to}."),
            ],
            Self::Postpone { task, from, days, .. } => {
                let days = match days {
                    1 => "one day".to_owned(),
                    n => format!("{} days", number(*n)),
                };
                vec![
                    format!("I should {task} on {from}. Postpone it by {days}."),
                    format!("Today is {from}. Postpone this by {days}: {task}."),
                    format!("Postpone this from {from} by {days}: {task}."),
                    format!("The task for {from} must wait {days}: {task}."),
                ]
            }
            Self::List { tasks } => {
                let all = joined(tasks);
                vec![
                    format!("My tasks are {all}. Show my list."),
                    format!("I have to {all}. List my tasks."),
                    format!("I need to {all}. What is on my list?"),
                    format!("Make a list: {all}."),
                    format!("Please list my tasks: {all}."),
                ]
            }
            Self::Count { tasks } => {
                let all = joined(tasks);
                vec![
                    format!("I have to {all}. How many tasks do I have?"),
                    format!("My list: {all}. How many tasks are left?"),
                    format!("Count my tasks: {all}."),
                    format!("How many tasks are these: {all}?"),
                ]
            }
            Self::Order { tasks: [(a, one), (b, two)] } => {
                let (one, two) = (DAYS[*one], DAYS[*two]);
                vec![
                    format!("I must {a} by {one} and {b} by {two}. What comes first?"),
                    format!("Due {one}: {a}. Due {two}: {b}. Where do I start?"),
                    format!("I have until {one} to {a} and until {two} to {b}. Put them in order."),
                    format!("What is first: {a} by {one} or {b} by {two}?"),
                ]
            }
            Self::Urgent { task, others } => {
                let rest = joined(others);
                vec![
                    format!("I have to {rest}. I also have to {task} and that is urgent. Where do I start?"),
                    format!("Urgent: {task}. Not urgent: {rest}. What do I do first?"),
                    format!("This can wait: {rest}. This can not: {task}. Set the order."),
                    format!("I must {task} right now. Later I will {rest}. What is the plan?"),
                ]
            }
            Self::Summary { done, open } => {
                let done = joined(done);
                vec![
                    format!("Done: {done}. Open: {open}. Sum it up."),
                    format!("Today I did this: {done}. I still have to {open}. How am I doing?"),
                    format!("Finished: {done}. Not finished: {open}. Give me a summary."),
                    format!("Sum up my day. Done: {done}. Left: {open}."),
                ]
            }
            Self::Lookup { plan, asked } => {
                let entries: Vec<String> = plan.iter().map(|(task, day)| format!("{task} on {day}")).collect();
                let (all, task) = (joined(&entries), &plan[*asked].0);
                vec![
                    format!("My plan is to {all}. When do I {task}?"),
                    format!("I will {all}. On which day do I {task}?"),
                    format!("Plan: {all}. When will I {task}?"),
                ]
            }
            Self::Assign { task, person } => vec![
                format!("Ask {person} to {task}."),
                format!("Give this to {person}: {task}."),
                format!("{person} will {task} for me."),
                format!("Assign this to {person}: {task}."),
                format!("Let {person} {task}."),
            ],
            Self::Priority { task, level } => vec![
                format!("Set this to {level} priority: {task}."),
                format!("This has {level} priority: {task}."),
                format!("Give this a {level} priority: {task}."),
                format!("I have to {task}. It is {level} priority."),
            ],
            Self::Duration { tasks: [(a, one), (b, two)] } => vec![
                format!("I need {one} minutes to {a} and {two} minutes to {b}. How long is that?"),
                format!("How long is it to {a} for {one} minutes and {b} for {two} minutes?"),
                format!("It takes {one} minutes to {a} and {two} minutes to {b}. How much time in all?"),
            ],
            Self::Correct { to, .. } => vec![
                format!("Make it {to}."),
                format!("No, {to} is better."),
                format!("Can you move it to {to}?"),
                format!("Sorry, I meant {to}."),
            ],
            Self::Undo { .. } => {
                ["Undo that.", "No, remove it.", "Take it off again.", "Forget it."].map(str::to_owned).to_vec()
            }
            Self::Greet { name: Some(name) } => {
                vec![format!("Hello, I am {name}."), format!("Hi, this is {name}."), format!("My name is {name}.")]
            }
            Self::Greet { name: None } => {
                ["Hello.", "Hi.", "Good morning.", "Are you there?", "Good evening."].map(str::to_owned).to_vec()
            }
            Self::Thanks => ["Thanks.", "Thank you.", "That is all, thank you.", "Good work.", "Great, thanks."]
                .map(str::to_owned)
                .to_vec(),
            Self::Tip(which) => vec![TIPS[*which].to_owned()],
        };
        wordings.swap_remove(random.below(wordings.len()))
    }
}

/// "a", "a and b", "a, b and c".
pub fn joined(parts: &[String]) -> String {
    match parts.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// `least..=most` tasks, no two alike.
fn tasks(random: &mut Random, least: usize, most: usize) -> Vec<String> {
    let n = least + random.below(most - least + 1);
    let mut tasks: Vec<String> = Vec::with_capacity(n);
    while tasks.len() < n {
        let task = task(random);
        if !tasks.contains(&task) {
            tasks.push(task);
        }
    }
    tasks
}

fn two_tasks(random: &mut Random) -> [String; 2] {
    <[String; 2]>::try_from(tasks(random, 2, 2)).expect("two tasks were asked for")
}

/// Two different days.
fn two_days(random: &mut Random) -> (usize, usize) {
    let one = random.below(7);
    (one, (one + 1 + random.below(6)) % 7)
}
