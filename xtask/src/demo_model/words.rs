//! The vocabulary: what tasks are made of, who does them and when.
//!
//! A task phrase is `verb object [tail]`, all lower case but for names, without commas or the word "and", so that a
//! list of tasks can be joined by both. Words are common ones: each is one or two pieces of the tokenizer.

use super::random::Random;

/// Tasks of one kind: every verb goes with every object, adjective and tail.
#[derive(Clone, Copy)]
struct Family {
    verbs: &'static [&'static str],
    objects: &'static [&'static str],
    adjectives: &'static [&'static str],
    tails: &'static [&'static str],
}

/// The days, in the order in which they come.
pub const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A task phrase, such as "water the small plants".
pub fn task(random: &mut Random) -> String {
    if random.chance(5) {
        let verb = random.pick(&["review", "close", "check", "open", "finish", "update"]);
        let thing = random.pick(&["ticket", "order", "invoice", "chapter", "room"]);
        return format!("{verb} {thing} {}", 1 + random.below(999));
    }
    if random.chance(25) {
        let (verb, tail) = match random.chance(60) {
            true => (random.pick(&["call", "email", "text", "ask", "remind", "tell"]), {
                format!(" about {}", random.pick(TOPICS))
            }),
            false => (random.pick(&["call", "visit", "thank", "meet", "invite", "help", "greet"]), String::new()),
        };
        return format!("{verb} {}{tail}", person(random));
    }
    let family = random.pick(FAMILIES);
    let (verb, object) = (random.pick(family.verbs), described(random, &family));
    match random.chance(25) {
        true => format!("{verb} {object} {}", random.pick(family.tails)),
        false => format!("{verb} {object}"),
    }
}

/// A first name; one in five is made up of syllables, so that copying a name never seen has to be learned.
pub fn person(random: &mut Random) -> String {
    if !random.chance(20) {
        return random.pick(PEOPLE).to_string();
    }
    let first = random.pick(&["Ba", "De", "Fi", "Ga", "Ka", "Lo", "Mi", "Na", "Pe", "Ro", "Sa", "To", "Vi", "Za"]);
    let middle = random.pick(&["", "la", "ri", "mo", "ve", "du", "ni"]);
    let last = random.pick(&["ba", "co", "dan", "fer", "ka", "len", "mar", "na", "rin", "sto", "ta", "vel"]);
    format!("{first}{middle}{last}")
}

/// A time, such as "on Friday at 9:30" or "tomorrow".
pub fn when(random: &mut Random) -> String {
    match random.below(10) {
        0..5 => format!("on {}", random.pick(&DAYS)),
        5..7 => format!("on {} at {}", random.pick(&DAYS), clock(random)),
        7 => format!("at {}", clock(random)),
        _ => random
            .pick(&[
                "tomorrow",
                "today",
                "tonight",
                "this afternoon",
                "this evening",
                "tomorrow morning",
                "tomorrow evening",
                "next week",
                "at noon",
                "after lunch",
                "before dinner",
                "this weekend",
            ])
            .to_string(),
    }
}

/// `n` as a word, for 0 to 10.
pub fn number(n: usize) -> &'static str {
    ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"][n]
}

fn clock(random: &mut Random) -> String {
    format!("{}{}", 1 + random.below(12), random.pick(&["", "", ":30", ":15"]))
}

/// An object of the family, often with an adjective after its article.
fn described(random: &mut Random, family: &Family) -> String {
    let object = random.pick(family.objects);
    match object.strip_prefix("the ") {
        Some(noun) if random.chance(30) => format!("the {} {noun}", random.pick(family.adjectives)),
        _ => object.to_owned(),
    }
}

const FAMILIES: &[Family] = &[
    Family {
        verbs: &["buy", "order", "get"],
        objects: &[
            "milk",
            "bread",
            "coffee",
            "tea",
            "rice",
            "fresh fruit",
            "apples",
            "cheese",
            "eggs",
            "butter",
            "flour",
            "sugar",
            "salt",
            "honey",
            "a cake",
            "a lamp",
            "a chair",
            "new shoes",
            "a coat",
            "a gift",
            "stamps",
            "paper",
            "ink",
            "batteries",
            "candles",
            "soap",
            "a map",
            "a pen",
            "a notebook",
            "flowers",
            "some tape",
            "a clock",
            "warm socks",
            "a kettle",
            "two pillows",
        ],
        adjectives: &[],
        tails: &["for the party", "for the office", "for the trip", "for my sister", "for the school", "online"],
    },
    Family {
        verbs: &["clean", "tidy", "paint", "photograph", "decorate", "measure"],
        objects: &[
            "the kitchen",
            "the garage",
            "the attic",
            "the cellar",
            "the garden",
            "the office",
            "the bathroom",
            "the hall",
            "the balcony",
            "the shed",
            "the stairs",
            "the bedroom",
            "the terrace",
            "the fence",
            "the gate",
            "the workshop",
            "the windows",
            "the shelf",
            "the cupboard",
        ],
        adjectives: &["small", "big", "old", "back", "front"],
        tails: &["before the visit", "with the children", "for the guests", "after the storm"],
    },
    Family {
        verbs: &["fix", "repair", "replace", "check", "test"],
        objects: &[
            "the printer",
            "the bike",
            "the car",
            "the heater",
            "the radio",
            "the camera",
            "the lock",
            "the door",
            "the tap",
            "the oven",
            "the fridge",
            "the phone",
            "the laptop",
            "the screen",
            "the cable",
            "the alarm",
            "the engine",
            "the bell",
            "the ladder",
            "the pump",
            "the mirror",
            "the piano",
            "the lamp",
        ],
        adjectives: &["old", "new", "small", "big", "broken", "spare", "black", "white"],
        tails: &["in the hall", "in the kitchen", "in the garage", "in the office", "at work", "at home"],
    },
    Family {
        verbs: &["write", "review", "finish", "send", "print", "sign", "read"],
        objects: &[
            "the report",
            "the budget",
            "the letter",
            "the contract",
            "the article",
            "the speech",
            "the summary",
            "the proposal",
            "the essay",
            "the invoice",
            "the schedule",
            "the survey",
            "the slides",
            "the form",
            "the notes",
            "the agenda",
            "the manual",
            "the newsletter",
            "the price list",
            "the guest list",
        ],
        adjectives: &["first", "second", "last", "short", "long", "new", "old"],
        tails: &["for the team", "for the board", "for the school", "for the client", "for the museum", "for the bank"],
    },
    Family {
        verbs: &["pay", "check", "file"],
        objects: &[
            "the rent",
            "the water bill",
            "the phone bill",
            "the power bill",
            "the tax",
            "the insurance",
            "the loan",
            "the school fee",
            "the parking fine",
            "the deposit",
            "the gas bill",
            "the club fee",
        ],
        adjectives: &["old", "new", "first", "last"],
        tails: &["online", "at the bank", "with the card"],
    },
    Family {
        verbs: &["book", "cancel", "plan", "confirm"],
        objects: &[
            "the flight",
            "the dentist",
            "the hotel",
            "the train",
            "the dinner",
            "the meeting",
            "the party",
            "the concert",
            "the lesson",
            "the picnic",
            "the trip",
            "the interview",
            "the tour",
            "the ferry",
            "the lunch",
            "the match",
            "the holiday",
            "the class",
            "a table",
            "a taxi",
            "a room",
            "a haircut",
        ],
        adjectives: &["first", "second", "last", "next", "short", "big"],
        tails: &["for two people", "for the family", "for the team", "for the visitors"],
    },
    Family {
        verbs: &["feed", "brush", "walk", "find"],
        objects: &["the dog", "the cat", "the horse", "the goat", "the pony", "the puppy"],
        adjectives: &["old", "small", "big", "black", "white", "brown"],
        tails: &["after breakfast", "with the children", "in the park"],
    },
    Family {
        verbs: &["water", "plant", "trim"],
        objects: &[
            "the roses",
            "the hedge",
            "the herbs",
            "the tomatoes",
            "the trees",
            "the lemon tree",
            "the beans",
            "the tulips",
            "the vines",
            "the bushes",
        ],
        adjectives: &["small", "big", "old", "new", "red"],
        tails: &["in the garden", "by the gate", "behind the shed"],
    },
    Family {
        verbs: &["study", "practise", "learn"],
        objects: &[
            "French",
            "Spanish",
            "maths",
            "history",
            "chess",
            "music",
            "physics",
            "grammar",
            "the guitar",
            "the violin",
            "the flute",
            "the song",
            "the dance",
            "geography",
            "drawing",
            "chemistry",
            "biology",
            "poetry",
            "the speech",
            "the poem",
        ],
        adjectives: &["new", "first", "short", "long"],
        tails: &["for the exam", "with the tutor", "for an hour"],
    },
    Family {
        verbs: &["pack", "sort", "return", "collect", "lend"],
        objects: &[
            "the shirts",
            "the books",
            "the towels",
            "the boxes",
            "the toys",
            "the tools",
            "the keys",
            "the photos",
            "the suitcase",
            "the tent",
            "the files",
            "the blankets",
            "the parcel",
            "the jacket",
            "the umbrella",
            "the skis",
            "the maps",
            "the costumes",
        ],
        adjectives: &["old", "new", "small", "big", "blue", "red", "green", "grey"],
        tails: &["for the trip", "for the move", "for the school", "with the children"],
    },
    Family {
        verbs: &["wash", "iron", "fold"],
        objects: &[
            "the shirts",
            "the towels",
            "the curtains",
            "the blankets",
            "the jacket",
            "the sheets",
            "the dress",
            "the apron",
            "the scarf",
            "the jeans",
        ],
        adjectives: &["old", "new", "blue", "red", "green", "white", "grey"],
        tails: &["by hand", "for the trip", "for the weekend"],
    },
    Family {
        verbs: &["cook", "make", "serve", "taste"],
        objects: &[
            "the soup",
            "the pie",
            "lunch",
            "dinner",
            "breakfast",
            "the pasta",
            "the sauce",
            "the salad",
            "the stew",
            "the jam",
            "the curry",
            "the pizza",
            "the pancakes",
            "the cookies",
        ],
        adjectives: &["first", "second", "spicy", "sweet", "big", "fresh"],
        tails: &["for the guests", "for the children", "for the neighbours", "with the new recipe"],
    },
    Family {
        verbs: &["draw", "build", "design", "sell"],
        objects: &[
            "the bookshelf",
            "the kite",
            "the website",
            "the logo",
            "the poster",
            "the birdhouse",
            "the bench",
            "the model",
            "the bridge",
            "the puzzle",
            "the sign",
            "the tower",
            "the cabinet",
            "the stage",
            "the mask",
        ],
        adjectives: &["small", "big", "new", "first", "red", "blue"],
        tails: &["for the fair", "for the play", "with the children"],
    },
];

const TOPICS: &[&str] = &[
    "the rent",
    "the budget",
    "the garden",
    "the trip",
    "the party",
    "the report",
    "the school",
    "the meeting",
    "the concert",
    "the dog",
    "the car",
    "the new job",
    "the exam",
    "the wedding",
    "the holiday",
    "the house",
    "the recipe",
    "the contract",
    "the project",
    "the bill",
    "the match",
    "the news",
    "the noise",
    "the keys",
    "the plan",
    "the weather",
    "the film",
    "the race",
    "the museum",
    "the ticket",
];

const PEOPLE: &[&str] = &[
    "Anna", "Maria", "Ben", "Carlos", "Clara", "Daniel", "David", "Elena", "Emma", "Eva", "Felix", "Frank", "George",
    "Grace", "Hanna", "Hugo", "Ida", "Ines", "Jack", "James", "Jonas", "Julia", "Karim", "Laura", "Leo", "Lena",
    "Lily", "Lina", "Lucas", "Maya", "Mark", "Martin", "Mina", "Nadia", "Nina", "Noah", "Omar", "Olivia", "Oscar",
    "Paul", "Peter", "Priya", "Rosa", "Ruth", "Sam", "Sara", "Simon", "Sofia", "Stefan", "Theo", "Tom", "Uma", "Vera",
    "Victor", "Walter", "Yara", "Yusuf", "Zoe", "Aisha", "Amir",
];
