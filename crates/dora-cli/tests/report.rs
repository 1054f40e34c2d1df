//! `dora report`: the page is whole, stands alone and escapes what it is given; verdicts are those of `dora compare`; refusals.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use scraper::{ElementRef, Html, Selector};
use serde_json::{Value, json};
use support::report::*;
use support::*;

fn report<P: AsRef<Path>>(inputs: &[P], output: &Path) -> Ran {
    let inputs = inputs.iter().map(|path| shown(path.as_ref()));
    dora(["--json", "report"].into_iter().chain(inputs).chain(["--output", shown(output)]))
}

/// The page of inputs, which must be well-formed.
#[track_caller]
fn page<P: AsRef<Path>>(room: &Room, inputs: &[P]) -> Html {
    let output = room.path("page.html");
    report(inputs, &output).good();
    let html = Html::parse_document(&fs::read_to_string(output).unwrap());
    assert!(html.errors.is_empty(), "{:?}", html.errors);
    html
}

fn all<'a>(html: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    html.select(&Selector::parse(selector).unwrap()).collect()
}

fn text(element: ElementRef) -> String {
    element.text().collect()
}

/// The cells of the row that begins with a name, in any table.
fn row(html: &Html, name: &str) -> Vec<String> {
    let cells = Selector::parse("th, td").unwrap();
    let rows = all(html, "tr").into_iter().map(|row| row.select(&cells).map(text).collect::<Vec<_>>());
    rows.into_iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no row {name}"))
}

#[test]
fn the_parser_finds_faults() {
    let faults = |body: &str| Html::parse_document(&format!("<!doctype html><title>t</title>{body}")).errors.len();
    assert_eq!(faults("<p>a</p>"), 0);
    for body in ["<p>a</div>", "<table><p></table>", "<p a=1 a=2>", "<b><i></b></i>"] {
        assert!(faults(body) > 0, "{body}");
    }
}

#[test]
fn everything_on_one_page() {
    let room = Room::new();
    let output = room.path("page.html");
    let object = report(&everything(&room), &output).good().object();
    assert_eq!(keys(&object), ["bytes", "comparisons", "output", "runs", "sweeps"]);
    assert_eq!((&object["runs"], &object["sweeps"], &object["comparisons"]), (&json!(2), &json!(1), &json!(3)));
    let text_of_page = fs::read_to_string(&output).unwrap();
    assert_eq!(object["bytes"], text_of_page.len());
    let html = page(&room, &everything(&room));
    // Loss, rate, norm and speed of each run, and losses of both together; the plots of the run, of the sweep, and alone.
    assert_eq!((all(&html, "figure > svg").len(), all(&html, "figure > img").len()), (10, 3));
    assert!(all(&html, "svg").iter().all(|svg| svg.attr("role") == Some("img") && svg.attr("aria-label").is_some()));
    assert!(all(&html, "svg").iter().all(|svg| svg.html().contains("<polyline") && !svg.html().contains("NaN")));
    assert!(all(&html, "img").iter().all(|img| img.attr("alt").is_some_and(|alt| alt.starts_with("Plot from "))));
    assert!(all(&html, "figure").len() == all(&html, "figcaption").len());
    for table in all(&html, "table") {
        let has = |selector| table.select(&Selector::parse(selector).unwrap()).next().is_some();
        assert!(has("caption") && has("thead th[scope=col]") && has("tbody th[scope=row]"), "{}", table.html());
    }
    // Links lead to places on the page, each of which is there once.
    let ids: Vec<&str> = all(&html, "[id]").iter().filter_map(|element| element.attr("id")).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    let links = all(&html, "a");
    assert_eq!(links.len(), 7);
    assert!(links.iter().all(|link| ids.contains(&link.attr("href").unwrap().trim_start_matches('#'))));
    assert!(all(&html, "html[lang]").len() == 1 && all(&html, "h1").len() == 1 && all(&html, "main").len() == 1);
    assert_eq!(all(&html, "meta[name=viewport]").len(), 1);
}

/// Nothing is fetched and nothing runs.
#[test]
fn the_page_stands_alone() {
    let room = Room::new();
    let html = page(&room, &everything(&room));
    assert!(all(&html, "script, link, iframe, object, embed, base, form").is_empty());
    for element in all(&html, "*") {
        for (name, value) in element.value().attrs() {
            assert!(!name.starts_with("on"), "{name} in {}", element.html());
            assert!(name != "src" || value.starts_with("data:image/svg+xml;base64,"), "{value}");
            assert!(name != "href" || value.starts_with('#'), "{value}");
        }
    }
    let style = text(all(&html, "style")[0]);
    assert!(!style.contains("url(") && !style.contains("@import") && !style.contains("</"));
    assert!(["prefers-color-scheme: dark", "@media print"].iter().all(|rule| style.contains(rule)));
}

#[test]
fn names_and_texts_are_text() {
    let room = Room::new();
    let html = page(&room, &everything(&room));
    let titles: Vec<String> = all(&html, "h2").into_iter().map(text).collect();
    assert!(titles.iter().any(|title| title.starts_with(HOSTILE)), "{titles:?}");
    let answers: Vec<String> = all(&html, ".sample dd").into_iter().map(text).collect();
    assert_eq!(answers, [format!("Say {SCRIPT}"), format!("{SCRIPT} {LONG}")]);
    assert_eq!(row(&html, "data")[1], format!("{SCRIPT}, b.jsonl"));
    let alone = page(&room, &[room.path(HOSTILE)]);
    assert_eq!(text(all(&alone, "title")[0]), format!("Report of {HOSTILE}"));
}

#[test]
fn figures_are_those_of_the_files() {
    let room = Room::new();
    let html = page(&room, &[run(&room, "one", &record("dora", 3), &steps(120))]);
    let tiles: Vec<String> = all(&html, ".tiles dd").into_iter().map(text).collect();
    let expected = [
        "dora, rank 16",
        "4,884,480",
        "3.5039 % of all",
        "3.2500 → 0.5000",
        "perplexity 1.649",
        "0.4321",
        "120 steps",
        "2 min 53 s",
        "188 tokens/s",
        "1,260 MB",
        "1,200 MB predicted",
    ];
    assert_eq!(tiles, expected);
    assert_eq!(row(&html, "activations"), ["activations", "900", ""]);
    assert_eq!(row(&html, "lora forward"), ["lora forward", "62.5 %", "62.50", "16.0", "1.6", ""]);
    let bars: Vec<&str> = all(&html, ".bar span").iter().filter_map(|bar| bar.attr("style")).collect();
    assert_eq!(bars, ["width:23.8%", "width:71.4%", "width:95.2%", "width:100.0%", "width:62.5%", "width:37.5%"]);
    let captions: Vec<String> = all(&html, "caption").into_iter().map(text).collect();
    assert!(captions.contains(&"Peak memory as predicted; measured 5.0 % more".into()), "{captions:?}");
    assert_eq!(row(&html, "packing")[1], "no");
    assert_eq!(row(&html, "rank pattern")[1], "up: 4");
    assert!(!all(&html, "th").into_iter().any(|name| text(name) == "eval every"), "a setting that says nothing");
    assert!(all(&html, "#runs, #comparisons, #evaluations, #plots").is_empty());
}

/// A run as `dora train` leaves it, in the middle of it, and after a failure.
#[test]
fn runs_of_train() {
    let room = Room::new();
    let (model, data, out) = (plain(), room.rows("rows.jsonl", &token_rows(6)), room.path("run"));
    let more =
        ["--method=dora", "--rank=2", "--max-steps=3", "--eval-every=2", "--profile", "--eval-data", shown(&data)];
    train(&model, &data, &out, &more).good();
    let html = page(&room, &[&out]);
    assert_eq!((all(&html, "figure > svg").len(), text(all(&html, ".badge")[0])), (4, "finished".into()));
    let circles = all(&html, "svg")[0].html().matches("<circle").count();
    assert_eq!(circles, 3, "held-out losses before, after two steps, and at the end");
    let after = read_json(&out.join("run.json"))["results"]["eval_loss_after"].as_f64().unwrap();
    assert!(all(&html, ".tiles dd").into_iter().any(|tile| text(tile).ends_with(&format!("→ {after:.4}"))));
    assert!(all(&html, "caption").into_iter().any(|caption| text(caption).starts_with("Where the ")));
    // Killed while it wrote: no results, the last line cut off.
    let mut begun = record("lora", 0);
    begun["results"] = Value::Null;
    let cut = format!("{}{{\"step\": 8, \"lo", steps(7));
    let html = page(&room, &[run(&room, "begun", &begun, &cut)]);
    assert_eq!((all(&html, "figure > svg").len(), text(all(&html, ".badge")[0])), (4, "no results yet".into()));
    // Failed in the first step.
    let mut failed = record("lora", 0);
    failed["results"] = json!({ "ending": "failed" });
    let html = page(&room, &[run(&room, "failed", &failed, "")]);
    assert!(all(&html, "svg").is_empty() && all(&html, ".badge.bad").len() == 1);
    assert!(all(&html, "p").into_iter().any(|p| text(p) == "No step was made."));
}

#[test]
fn verdicts_are_those_of_compare() {
    let room = Room::new();
    let file = |name: &str, method: &str, most: usize| {
        evaluation(&room, name, &record(method, 0), move |i| i * 7 % 100 < most)
    };
    let (a, b) = (file("a.jsonl", "lora", 40), file("b.jsonl", "dora", 60));
    let compared = dora(["--json", "compare", shown(&a), shown(&b)]).good();
    let verdict = compared.object()["verdict"].as_str().unwrap().to_owned();
    assert!(verdict.starts_with("B better by 20.0 points of accuracy"), "{verdict}");
    let json = room.write("verdict.json", &compared.out);
    for inputs in [vec![&a, &b], vec![&json]] {
        let html = page(&room, &inputs);
        assert_eq!(all(&html, ".verdict").into_iter().map(text).collect::<Vec<_>>(), [&*verdict]);
        assert_eq!(row(&html, "right")[1..3], ["40.0 %", "60.0 %"]);
        assert_eq!(row(&html, "trainable parameters")[3], "× 1.00");
    }
    // What measured something else is not compared; seeds of one method are one arm.
    let c = file("c.jsonl", "dora", 61);
    let other = fs::read_to_string(room.path("c.jsonl.summary.json"))
        .unwrap()
        .replace("questions\",\"training", "other\",\"training");
    room.write("c.jsonl.summary.json", other);
    assert_eq!(all(&page(&room, &[&a, &b, &c]), ".verdict").len(), 1);
    let second = ["lora", "dora"].map(|method| {
        evaluation(&room, &format!("{method}-1.jsonl"), &record(method, 1), |i| i * 7 % 100 < 40 + method.len())
    });
    let html = page(&room, &[&a, &b, &second[0], &second[1]]);
    assert_eq!(all(&html, ".verdict").len(), 1);
    assert_eq!(text(all(&html, "#comparisons .path")[0]), format!("{}, {}", shown(&a), shown(&second[0])));
}

/// Results of an adapter that is no longer in the folder are told of, not shown, unless they are asked for by name.
#[test]
fn results_of_an_earlier_adapter() {
    let room = Room::new();
    let (model, out) = (plain(), room.path("out"));
    let (data, results) = (room.rows("rows.jsonl", &token_rows(8)), out.join("rows.jsonl"));
    let evaluate = || {
        let line = ["eval", "--model", shown(&model), "--adapter", shown(&out), "--data", shown(&data)];
        dora(line.iter().chain(&["--output", shown(&room.path("held.jsonl"))])).good();
        for end in ["", ".summary.json"] {
            fs::copy(room.path(&format!("held.jsonl{end}")), out.join(format!("rows.jsonl{end}"))).unwrap();
        }
    };
    let note = "rows.jsonl was measured on another adapter than this folder's, such as an earlier run's; dora eval \
                measures anew.";
    let told = |html: &Html| all(html, "#run-1 .note").into_iter().map(text).collect::<Vec<_>>();
    train(&model, &data, &out, &["--max-steps=1"]).good();
    evaluate();
    let html = page(&room, &[&out]);
    assert_eq!((all(&html, "#evaluations").len(), told(&html)), (1, vec![]));
    train(&model, &data, &out, &["--max-steps=2"]).good();
    let html = page(&room, &[&out]);
    assert_eq!((all(&html, "#evaluations").len(), told(&html)), (0, vec![note.to_owned()]));
    let html = page(&room, &[&out, &results]);
    assert_eq!((all(&html, "#evaluations").len(), told(&html)), (1, vec![note.to_owned()]));
    evaluate();
    assert_eq!(all(&page(&room, &[&out]), "#evaluations").len(), 1);
    // Without an adapter the record of the training says it.
    let full = run(&room, "full", &record("full", 0), &steps(2));
    evaluation(&room, "full/answers.jsonl", &record("full", 0), |i| i < 60);
    assert_eq!(all(&page(&room, &[&full]), "#evaluations").len(), 1);
    evaluation(&room, "full/answers.jsonl", &record("full", 1), |i| i < 60);
    assert_eq!(all(&page(&room, &[&full]), "#evaluations").len(), 0);
}

#[test]
fn sweeps() {
    let room = Room::new();
    let html = page(&room, &[sweep(&room, "sweep")]);
    let rows: Vec<Vec<String>> =
        all(&html, "#sweep-1 tbody tr").iter().map(|row| row.child_elements().map(text).collect()).collect();
    assert_eq!(rows.len(), 4);
    assert_eq!(
        rows[3],
        ["dora", "8", "3e-4", "2", "60.0 (30.0 to 70.0)", "12.5", "0.6250", "1,234,567", "61 s", "1,235 MB"]
    );
    assert_eq!((all(&html, "#sweep-1 img").len(), all(&html, ".verdict").len()), (1, 2));
    let verdict = text(all(&html, ".verdict")[0]);
    assert!(verdict.starts_with("B better by 20.0 points") && verdict.contains("2 comparisons"), "{verdict}");
    let mut notes: Vec<String> = all(&html, "#sweep-1 .note").into_iter().map(text).collect();
    assert_eq!(notes.remove(0), "Its folder also holds finished runs that it does not name: dora-r16-s1.");
    assert_eq!(
        notes[1],
        "dora: learning rate 3e-4, the one with the least held-out loss (3e-4: 0.5000, 1e-2: no end)."
    );
}

#[track_caller]
fn refuses<P: AsRef<Path>>(room: &Room, inputs: &[P], message: &str) {
    let output = room.write("kept.html", "as it was");
    refused(&report(inputs, &output), 2, message);
    assert_eq!(fs::read_to_string(output).unwrap(), "as it was");
}

#[test]
fn what_is_no_run() {
    let room = Room::new();
    let good = run(&room, "good", &record("lora", 0), &steps(2));
    let nowhere = room.path("nowhere");
    refuses(
        &room,
        &[&good, &nowhere],
        &format!("cannot read {}: No such file or directory (os error 2)", shown(&nowhere)),
    );
    fs::create_dir(room.path("empty")).unwrap();
    let empty = room.path("empty");
    let expected = "has neither run.json nor sweep.json, expected a folder of `dora train` or `dora sweep`";
    refuses(&room, &[&empty], &format!("{} {expected}", shown(&empty)));
    refuses(
        &room,
        &[&good, &room.path("./good")],
        &format!("{} is named twice, expected each input once", shown(&room.path("./good"))),
    );
    let folder = room.path("folder");
    fs::create_dir_all(folder.join("run.json")).unwrap();
    refuses(
        &room,
        &[&folder],
        &format!("cannot read {}: Is a directory (os error 21)", shown(&folder.join("run.json"))),
    );
    let bare = run(&room, "bare", &json!({ "ending": "finished" }), "");
    let file = bare.join("run.json");
    refuses(
        &room,
        &[&bare],
        &format!("{} has no settings, expected the record of a run of `dora train`", shown(&file)),
    );
    let lines = format!("{}\nnonsense\n", steps(1));
    let damaged = run(&room, "damaged", &record("lora", 0), &lines);
    let at = format!("{}:4", shown(&damaged.join("metrics.jsonl")));
    refuses(
        &room,
        &[&damaged],
        &format!("{at}: expected ident at line 1 column 2, expected a step or an evaluation of `dora train`"),
    );
    let lost = run(&room, "lost", &record("lora", 0), "");
    fs::remove_file(lost.join("metrics.jsonl")).unwrap();
    let file = lost.join("metrics.jsonl");
    refuses(&room, &[&lost], &format!("cannot read {}: No such file or directory (os error 2)", shown(&file)));
    let half = room.write("half/sweep.json", "{}");
    let message = format!("{}: missing field `ending`, expected what `dora sweep` writes", shown(&half));
    refuses(&room, &[half.parent().unwrap()], &message);
    let plot = room.write("plot.svg", "<html></html>");
    refuses(&room, &[&plot], &format!("{} is no SVG, expected <svg> to </svg>", shown(&plot)));
    let other = room.write("other.json", "{\"tasks\": 1}");
    let known = "is no SVG plot, no result of `dora eval --output` (no .summary.json beside it) and no output of `dora compare --json`";
    refuses(&room, &[&other], &format!("{} {known}, expected one of these", shown(&other)));
}

#[test]
fn nothing_is_written_over() {
    let room = Room::new();
    let folder = run(&room, "run", &record("lora", 0), &steps(2));
    let weights = room.write("run/adapter_model.safetensors", "weights");
    for file in [&weights, &folder.join("run.json")] {
        let before = fs::read(file).unwrap();
        refused(&report(&[&folder], file), 2, &format!("--output {} has another ending, expected .html", shown(file)));
        assert_eq!(fs::read(file).unwrap(), before);
    }
    let results = evaluation(&room, "answers.html", &record("lora", 0), |i| i < 3);
    let message = format!("--output {} is also read, expected a file of its own", shown(&results));
    refused(&report(&[&results], &results), 2, &message);
    // A page may lie in a run's folder, and be made anew; nothing else is left there.
    let output = folder.join("report.html");
    for _ in 0..2 {
        report(&[&folder], &output).good();
    }
    let mut names: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let expected =
        ["adapter_model.safetensors", "metrics.jsonl", "report.html", "run.json"].map(|name| folder.join(name));
    assert_eq!(names, expected);
    let ran = dora(["report", shown(&folder), "--output", shown(&output)]).good();
    assert!(ran.out.starts_with(&format!("{}: 1 run, 0 sweeps, 0 comparisons (", shown(&output))), "{}", ran.out);
    assert_eq!(dora(["report", shown(&folder)]).code, 2);
}
