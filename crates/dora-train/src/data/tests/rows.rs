//! What each form of record becomes.

use super::*;

const COMPLETION: &str = r#"{"prompt":"w0 w1","completion":"w2 w3"}"#;

fn only_row(content: &str, tokenizer: &Tokenizer, eos_id: Option<u32>) -> Row {
    let options = LoadOptions { max_seq_len: 99, eos_id, ..options() };
    let dataset = load_with(&[content.as_bytes()], Some(tokenizer), &options).unwrap();
    let [row] = <[Row; 1]>::try_from(dataset.rows).unwrap();
    row
}

#[test]
fn loss_falls_on_the_completion_and_its_end() {
    assert_eq!(load(COMPLETION).unwrap().rows, [row(&[0, 10, 11, 12, 13, 1], &[-100, -100, -100, 12, 13, 1])]);
    let dataset = load(r#"{"prompt":"","completion":"w2"}"#).unwrap();
    assert_eq!(dataset.rows, [row(&[0, 12, 1], &[-100, 12, 1])]);
}

#[test]
fn loss_falls_on_every_token_of_a_text() {
    let dataset = load(r#"{"text":"w5 w6"}"#).unwrap();
    assert_eq!(dataset.rows, [row(&[0, 15, 16, 1], &[0, 15, 16, 1])]);
    assert_eq!((dataset.report.tokens, dataset.report.labelled_tokens), (4, 3));
}

#[test]
fn the_templates_end_stands_only_at_the_end() {
    let expected = row(&[0, 10, 11, 12, 13, 1], &[-100, -100, -100, 12, 13, 1]);
    assert_eq!(only_row(COMPLETION, &words(EOS_TAIL), Some(EOS)), expected);
    assert_eq!(only_row(COMPLETION, &words(EOS_TAIL), None), expected);
    assert_eq!(only_row(r#"{"text":"w5"}"#, &words(EOS_TAIL), Some(EOS)), row(&[0, 15, 1], &[0, 15, 1]));
    // Neither known nor in the template: nothing ends the row.
    assert_eq!(only_row(r#"{"text":"w5"}"#, &words(""), None), row(&[0, 15], &[0, 15]));
}

#[test]
fn loss_falls_on_the_output_of_an_instruction() {
    for record in [
        r#"{"instruction":"w0","input":"w1","output":"w2","answer":"w2"}"#,
        r#"{"instruction":"w0","input":"","output":"w2","answer":"w2"}"#,
        r#"{"instruction":"w0","output":"w2"}"#,
    ] {
        let row = only_row(record, &words(""), Some(EOS));
        let (prompt, output) = row.labels.split_at(row.labels.len() - 2);
        assert!(prompt.iter().all(|&label| label == IGNORE));
        assert_eq!((output, row.input_ids[0]), (&[12, 1][..], BOS));
        assert_eq!((row.input_ids.contains(&10), row.input_ids.contains(&11)), (true, record.contains("w1")));
    }
}

#[test]
fn tokens_are_taken_as_they_are() {
    let content = r#"{"labels":[-100,7,39],"input_ids":[5,6,39]}"#;
    let expected = [row(&[5, 6, 39], &[-100, 7, 39])];
    assert_eq!(load(content).unwrap().rows, expected);
    assert_eq!(load_with(&[content.as_bytes()], None, &options()).unwrap().rows, expected);
}

#[test]
fn layouts_of_a_file_agree() {
    let (a, b) = (r#"{"text":"w1 w2"}"#, r#"{"text":"w3"}"#);
    let rows = load(&format!("{a}\n{b}\n")).unwrap().rows;
    assert_eq!(rows.len(), 2);
    for other in [
        format!("{a}\r\n{b}\r\n"),
        format!("\n \t\r\n{a}\n\n{b}"),
        format!("[{a},{b}]"),
        format!(" [\r\n  {a},\r\n  {b}\r\n]\r\n\r\n"),
    ] {
        let dataset = load(&other).unwrap();
        assert_eq!((dataset.rows, dataset.report.read), (rows.clone(), 2), "{other:?}");
    }
}

#[test]
fn files_are_hashed_and_counted_together() {
    let dataset =
        load_with(&[b"{\"text\":\"w1\"}\n", b"[{\"text\":\"w2 w3\"}]"], Some(&words("")), &options()).unwrap();
    assert_eq!(dataset.sha256, "b5eee78a578a26c26fa3f925ffd8dc5e1f6cd5de9840ec01a65350c556a37271");
    let expected = LoadReport { read: 2, tokens: 7, labelled_tokens: 5, ..Default::default() };
    assert_eq!((dataset.report, dataset.rows.len()), (expected, 2));
}

#[test]
fn long_rows_are_dropped_or_cut_and_counted() {
    let content = br#"{"input_ids":[1,2,3,4],"labels":[1,2,3,4]}
        {"input_ids":[5,6,7,8,9],"labels":[-100,6,7,8,9]}
        {"input_ids":[5,6,7,8,9],"labels":[5,-100,-100,-100,9]}"#;
    let with =
        |long_rows| load_with(&[content], None, &LoadOptions { max_seq_len: 4, long_rows, ..options() }).unwrap();
    let (dropped, cut) = (with(LongRows::Drop), with(LongRows::Truncate));
    assert_eq!(dropped.rows, [row(&[1, 2, 3, 4], &[1, 2, 3, 4])]);
    let report = LoadReport { read: 3, dropped_long: 2, tokens: 4, labelled_tokens: 3, ..Default::default() };
    assert_eq!(dropped.report, report);
    assert_eq!(cut.rows, [row(&[1, 2, 3, 4], &[1, 2, 3, 4]), row(&[5, 6, 7, 8], &[-100, 6, 7, 8])]);
    // The last row's label fell to the cut.
    let report = LoadReport { truncated: 2, dropped_unlabelled: 1, tokens: 8, labelled_tokens: 6, ..report };
    assert_eq!(cut.report, LoadReport { dropped_long: 0, ..report });
}
