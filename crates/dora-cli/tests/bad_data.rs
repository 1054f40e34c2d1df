//! Data that `dora train` and `dora eval` refuse: exit code 2, one sentence with file, line and column, and nothing in the
//! output folder that looks like a result.

mod support;

use std::fs;

use serde_json::json;
use support::*;

/// Trains the tiny model on a file of these bytes, expecting a refusal; `FILE` in the message stands for the file's path.
#[track_caller]
fn refuses(bytes: impl AsRef<[u8]>, message: &str, more: &[&str]) {
    let room = Room::new();
    let (data, output) = (room.write("rows.jsonl", bytes), room.path("out"));
    let message = message.replace("FILE", shown(&data));
    refused(&train(&plain(), &data, &output, more), 2, &message);
    no_result(&output);
    assert!(!output.join("run.json").exists() && !output.join("metrics.jsonl").exists());
    refused(&dora(["eval", "--model", shown(&plain()), "--data", shown(&data)]), 2, &message);
}

#[test]
fn malformed_json_is_placed() {
    let good = r#"{"input_ids":[3,4],"labels":[3,4]}"#;
    let cut = format!("{good}\n\n{{\"input_ids\":[3,4],\"labels\":\n{good}\n");
    let eof = "FILE:3:28: EOF while parsing a value, expected a whole JSON object on each line";
    refuses(cut, eof, &[]);
    refuses(format!("{good}\n  {{\"input_ids\":[3,,4]}}\n"), "FILE:2:19: expected value", &[]);
    refuses(format!("{good} {good}\n"), "FILE:1:36: trailing characters", &[]);
    refuses(format!("[{good},\n {good}\n"), "FILE:3:1: expected `,` or `]`", &[]);
    refuses(format!("{good}\n[3]\n"), "FILE:2:1: expected a JSON object", &[]);
}

#[test]
fn bytes_that_are_not_plain_utf_8() {
    let good = b"{\"input_ids\":[3,4],\"labels\":[3,4]}\n";
    let bom = [b"\xef\xbb\xbf", &good[..]].concat();
    let message = "FILE:1:1: found a byte order mark, expected UTF-8 without one (remove its three bytes)";
    refuses(bom, message, &[]);
    let latin1 = [&good[..], b"{\"text\":\"caf\xe9\"}\n"].concat();
    refuses(latin1, "FILE:2:13: found bytes that are not UTF-8, expected UTF-8 text", &[]);
}

#[test]
fn crlf_is_the_same_as_lf() {
    let room = Room::new();
    let text: String = token_rows(5).iter().map(|row| format!("{row}\n")).collect();
    let (lf, crlf) = (room.write("lf.jsonl", &text), room.write("crlf.jsonl", text.replace('\n', "\r\n")));
    let loss = |data| {
        let object = dora(["eval", "--json", "--model", shown(&plain()), "--data", shown(data)]).good().object();
        assert_eq!(object["rows"], 5);
        object["loss"].as_f64().unwrap()
    };
    assert_eq!(loss(&lf), loss(&crlf));
}

#[test]
fn files_without_rows() {
    for empty in ["", "\n \r\n", "[]"] {
        refuses(empty, "FILE: found no record, expected at least one", &[]);
    }
    let room = Room::new();
    let missing = room.path("no.jsonl");
    let message = format!("cannot read {}: No such file or directory (os error 2)", shown(&missing));
    refused(&train(&plain(), &missing, &room.path("out"), &[]), 2, &message);
    no_result(&room.path("out"));
}

#[test]
fn no_labelled_token_left() {
    let rows = "{\"input_ids\":[3,4],\"labels\":[3,-100]}\n{\"input_ids\":[5],\"labels\":[5]}\n";
    let message = "FILE: found no labelled token in 2 rows (0 dropped for their length, 0 truncated, 2 without a label \
                   after the first token), expected at least one";
    refuses(rows, message, &[]);
}

#[test]
fn records_that_are_no_rows() {
    let line = |record| format!("{{\"input_ids\":[3,4],\"labels\":[3,4]}}\n{record}\n");
    refuses(
        line(json!({ "input_ids": [3, 97], "labels": [3, 4] })),
        "FILE:2: token id 97 at position 1 is beyond the embedding's 97 rows",
        &[],
    );
    refuses(
        line(json!({ "input_ids": [3, 4], "labels": [3, 97] })),
        "FILE:2: found 97 in `labels` at position 1, expected -100 (no loss) or a token id below 97",
        &[],
    );
    refuses(
        line(json!({ "input_ids": [3, 4], "labels": [3] })),
        "FILE:2: found 2 `input_ids` and 1 `labels`, expected as many",
        &[],
    );
    refuses(
        line(json!({ "messages": [{ "role": "user", "content": "hi" }] })),
        "FILE:2: found key `messages`, which is not supported yet, expected `prompt`, `completion`",
        &[],
    );
    refuses(
        line(json!({ "prompt": "a", "completion": "b" })),
        "FILE:2: found text but no tokenizer, expected keys `input_ids`, `labels`",
        &[],
    );
}

#[test]
fn text_beyond_the_embedding() {
    let room = Room::new();
    let model = room.copy(&plain(), "model");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(embedded().join(name), model.join(name)).unwrap();
    }
    let data = room.rows("rows.jsonl", &[json!({ "text": "Please water the roses." })]);
    let ran = train(&model, &data, &room.path("out"), &[]);
    assert!(ran.err.contains("rows.jsonl:1: token id ") && ran.err.contains("is beyond the embedding's 97 rows"));
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    let prompt = ["generate", "--model", shown(&model), "--prompt", "Please water the roses."];
    let ran = dora(prompt);
    let message = "beyond the embedding's 97 rows (is tokenizer.json another model's?)\n";
    assert!(ran.err.starts_with("error: --prompt has token id ") && ran.err.ends_with(message), "{ran:?}");
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
}

#[test]
fn long_rows_need_a_policy_and_are_counted() {
    let room = Room::new();
    let ids: Vec<u32> = (0..12).map(|i| 3 + i).collect();
    let mut rows = token_rows(3);
    rows.push(json!({ "input_ids": ids, "labels": ids }));
    let late: Vec<i64> = (0..12).map(|i| if i < 11 { -100 } else { 14 }).collect();
    rows.push(json!({ "input_ids": ids, "labels": late }));
    let data = room.rows("rows.jsonl", &rows);
    let out = room.path("refused");
    let message = format!(
        "{}:4: found a row of 12 tokens, expected at most 11 (raise --max-seq-len, or choose --long-rows drop|truncate)",
        shown(&data)
    );
    refused(&train(&plain(), &data, &out, &["--max-seq-len=11"]), 2, &message);
    no_result(&out);

    for (policy, dropped, truncated, unlabelled, kept, notes) in [
        ("drop", 2, 0, 0, 3, "note: 2 of 5 rows left out: longer than --max-seq-len\n"),
        (
            "truncate",
            0,
            2,
            1,
            4,
            "note: 2 of 5 rows cut to --max-seq-len\nnote: 1 of 5 rows left out: no labelled token\n",
        ),
    ] {
        let out = room.path(policy);
        let line = ["--max-seq-len=11", "--long-rows", policy, "--max-steps=1"];
        let ran = train(&plain(), &data, &out, &line).good();
        assert!(ran.err.contains(notes), "{}", ran.err);
        let run = read_json(&out.join("run.json"));
        let counts = ["read", "dropped_long", "truncated", "dropped_unlabelled", "rows"];
        let found: Vec<i64> = counts.iter().map(|key| run["data"][key].as_i64().unwrap()).collect();
        assert_eq!(found, [5, dropped, truncated, unlabelled, kept]);
        assert_eq!(run["settings"]["long_rows"], policy);
    }
}

#[test]
fn longer_than_the_context() {
    let ids = vec![5; 513];
    let row = json!({ "input_ids": ids, "labels": ids }).to_string();
    let long = "found a row of 513 tokens, expected at most 512 (raise --max-seq-len, or choose --long-rows \
                drop|truncate)";
    refuses(row, &format!("FILE:1: {long}"), &[]);
    let room = Room::new();
    let data = room.rows("rows.jsonl", &token_rows(2));
    let message = "--max-seq-len is 513, expected 2 to the model's context of 512";
    refused(&train(&plain(), &data, &room.path("out"), &["--max-seq-len=513"]), 2, message);
}
