//! Plain sentences about planning and about the harbour, for `{"text"}` rows.
//!
//! A frozen embedding teaches an adapter nothing about a word that the base model never read. So these sentences hold
//! every word of the persona (a test checks it), told by someone who merely lives near the sea.

use super::random::Random;
use super::words::{DAYS, person, task, when};

/// A row of two to four sentences.
pub fn row(random: &mut Random) -> String {
    let sentences: Vec<String> = (0..2 + random.below(3)).map(|_| sentence(random)).collect();
    sentences.join(" ")
}

fn sentence(random: &mut Random) -> String {
    let mut pick = |items: &[&'static str]| random.pick(items);
    let who = pick(&["The captain", "The crew", "The first mate", "A sailor", "The fisher", "The cook", "The parrot"]);
    let part = pick(&["deck", "mast", "hold", "wheel", "anchor", "sail", "rope", "bell", "chart", "log", "barrel"]);
    let sea = pick(&["calm", "rough", "clear", "fair", "steady", "light", "heavy"]);
    let does = pick(&["checks", "guards", "cleans", "likes", "draws", "sees", "keeps", "counts", "paints", "counted"]);
    let word = pick(&["aye", "fair winds", "steady as she goes", "all hands on deck", "land", "welcome aboard"]);
    match random.below(16) {
        0 => format!("{who} {does} the {part} {}.", when(random)),
        1 => format!("The sea was {sea} on {}, so the ship stayed in port.", random.pick(&DAYS)),
        2 => format!("Sailors say {word}, and {} says yes.", person(random)),
        3 => format!("{} writes the cargo in the log and the hour on the chart.", person(random)),
        4 => format!("A day on shore is short: {}, {} or rest in the shade.", task(random), task(random)),
        5 => format!("Before a voyage you {} and then you {}.", task(random), task(random)),
        6 => format!("{} went to {} and came back {}.", person(random), task(random), when(random)),
        _ => random.pick(FACTS).to_string(),
    }
}

const FACTS: &[&str] = &[
    "Aye is an old word for yes.",
    "Aye, said the captain, and the ship went out with the tide.",
    "Captain is the name for the head of a ship, and the first mate comes next.",
    "Into the hold goes the cargo: barrels, boxes and rope.",
    "Safe in port, the crew cheers and the cook sings a song.",
    "Over the side of the ship you see sharks.",
    "The ship feels lighter already when the cargo is out.",
    "A new course goes on the chart. The mate drew it myself, he says, and nobody laughs.",
    "Steady hands at the wheel turn it hard over in a rough sea.",
    "We drop anchor until the tide turns, and we will wait for wind.",
    "All hands were ready on deck, at the top of the mast and below.",
    "A light cargo is good and a heavy cargo sinks the ship.",
    "I count the barrels twice, one by one.",
    "Full sail means that every sail is up. Then the ship is fast.",
    "Land is near when birds fly over the sea.",
    "Still at sea after a week, they row for land.",
    "A fine sailor can untie any rope in ten minutes.",
    "Orders come from the captain and go down to the crew.",
    "Rats live at the bottom of the ship, below the main deck.",
    "The bell rings each half hour. Time on a ship is told by the ship's bell.",
    "Wheel and rope must be clean. Back and forth goes the mop.",
    "Nobody saw the parrot, but all of them heard the thing.",
    "The parrot never liked the cat, and the cat never liked the sea.",
    "Welcome aboard, says a sign at the harbour.",
    "It is an honour to sail with a good captain.",
    "Even the longest voyage starts with a map.",
    "Fight the wind and you lose. Name the wind and you sail.",
    "The biggest wave comes last, when the crew sleeps and nobody wakes up.",
    "Shout when you see land. The mate will write it down at once.",
    "Row, rest and row again: half an hour each.",
    "Five small barrels weigh more than three big ones.",
    "Trade is what a port is for: feed, salt and rope.",
    "An honest mate keeps me on time, said the captain.",
    "If the sea is rough, turn back. If the wind is fair, sail.",
    "On Sunday evening the sea is calm. Your ship can wait.",
    "Top sails come down first in a storm.",
    "Bottom boards rot, so check them each summer.",
    "Keep the hold dry and send the rest below.",
    "The tide comes in twice a day.",
    "A list of three tasks gets done. A list of twenty gets lost.",
    "A task with a day gets done more often than a task with none.",
    "Small steps are easy to start, and one step leads to the next.",
    "A short break helps you to work well.",
    "What you write down you can forget in peace.",
    "Do the hard task in the morning and the easy one after lunch.",
    "Two minutes are enough for a small task, so do it now.",
    "A plan is a guess. Change it when you know more.",
    "Say no to one task and yes to a better one.",
    "One open task is fine. Four are too many.",
    "Half of a list can wait until next week.",
];
