//! Everything that a file may hold and that is refused, with the whole message.

use super::*;

fn refusal(content: &str) -> String {
    load(content).unwrap_err()
}

const GOOD: &str = r#"{"text":"w1"}"#;

#[test]
fn malformed_json() {
    let eof = "EOF while parsing an object, expected a whole JSON object on each line";
    assert_eq!(refusal(&format!("{GOOD}\n{{\"text\":\"w1\"")), format!("0.jsonl:2:12: {eof}"));
    assert_eq!(refusal("{\n  \"text\": \"w1\"\n}\n"), format!("0.jsonl:1:1: {eof}"));
    assert_eq!(refusal(&format!("{GOOD}\r\n\r\n  {{\"text\" 7}}\r\n")), "0.jsonl:3:11: expected `:`");
    assert_eq!(refusal(&format!("{GOOD} {GOOD}")), "0.jsonl:1:15: trailing characters");
    assert_eq!(refusal(&format!("{GOOD}\n\"w1\"")), "0.jsonl:2:1: expected a JSON object");
    assert_eq!(refusal("text,w1"), "0.jsonl:1:2: expected ident");
    assert_eq!(refusal(r#"{"text":"w1","text":"w2"}"#), "0.jsonl:1:19: duplicate key \"text\"");
}

#[test]
fn malformed_arrays() {
    assert_eq!(refusal(&format!("[{GOOD},\n {{\"text\":}}]")), "0.jsonl:2:10: expected value");
    assert_eq!(refusal(&format!("[{GOOD},\n {GOOD}\n")), "0.jsonl:3:1: expected `,` or `]`");
    assert_eq!(refusal(&format!("[{GOOD},\n")), "0.jsonl:2:1: EOF while parsing a value");
    assert_eq!(refusal(&format!("[{GOOD},\n]")), "0.jsonl:2:1: expected value");
    assert_eq!(refusal(&format!("[{GOOD}\n {GOOD}]")), "0.jsonl:2:2: expected `,` or `]`");
    assert_eq!(refusal(&format!("[{GOOD}, 7]")), "0.jsonl:1:17: expected a JSON object");
    let rest = "0.jsonl:2:1: found characters after the array, expected the end of the file";
    assert_eq!(refusal(&format!("[{GOOD}]\n{GOOD}")), rest);
    let pretty = "[\n  {\n    \"text\": \"w1\"\n  },\n  {\n    \"text\": \"w1\",\n    \"text\": 7\n  }\n]";
    assert_eq!(refusal(pretty), "0.jsonl:7:10: duplicate key \"text\"");
    assert_eq!(refusal(&pretty.replace("\"text\": 7", "\"a\" 7")), "0.jsonl:7:9: expected `:`");
    let semantic = pretty.replace(",\n    \"text\": 7", "").replacen("w1", "", 1);
    assert_eq!(refusal(&semantic), "0.jsonl:2: found an empty `text`, expected text to learn");
}

#[test]
fn what_is_not_plain_utf8() {
    let bom = "0.jsonl:1:1: found a byte order mark, expected UTF-8 without one (remove its three bytes)";
    assert_eq!(refusal(&format!("\u{feff}{GOOD}")), bom);
    let invalid = load_with(&[b"{\"text\":\"w1\"}\n{\"text\":\"\xffw1\"}"], None, &options()).unwrap_err();
    assert_eq!(invalid, "0.jsonl:2:10: found bytes that are not UTF-8, expected UTF-8 text");
}

#[test]
fn files_without_rows() {
    for empty in ["", "\n", " \r\n\t\n", "[]", "[ ]\n"] {
        assert_eq!(refusal(empty), "0.jsonl: found no record, expected at least one", "{empty:?}");
    }
    let second = load_with(&[GOOD.as_bytes(), b""], Some(&words("")), &options()).unwrap_err();
    assert_eq!(second, "1.jsonl: found no record, expected at least one");
    let missing = Dataset::load(&[PathBuf::from("no/such.jsonl")], None, &options()).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read no/such.jsonl: "), "{missing}");
}

#[test]
fn no_labelled_token_left() {
    let unlabelled: &[u8] = br#"{"input_ids":[1,2,3],"labels":[1,-100,-100]}"#;
    let (one, long): (&[u8], &[u8]) =
        (br#"{"input_ids":[3],"labels":[3]}"#, br#"{"input_ids":[1,2,3,4],"labels":[1,2,3,4]}"#);
    let options = LoadOptions { max_seq_len: 3, long_rows: LongRows::Drop, ..options() };
    assert_eq!(
        load_with(&[unlabelled, one, long], None, &options).unwrap_err(),
        "0.jsonl, 1.jsonl, 2.jsonl: found no labelled token in 3 rows (1 dropped for their length, 0 truncated, 2 without \
         a label after the first token), expected at least one"
    );
}

#[test]
fn rows_beyond_the_longest_length() {
    assert_eq!(
        refusal(&format!("{GOOD}\n{{\"text\":\"w1 w2 w3 w4 w5 w6 w7\"}}")),
        "0.jsonl:2: found a row of 9 tokens, expected at most 8 (raise --max-seq-len, or choose --long-rows \
         drop|truncate)"
    );
}

#[test]
fn keys_of_no_form() {
    let expected = "expected exactly `prompt`, `completion`, or `instruction`, `output` (and `input`, `answer` where they \
                    exist), or `text`, or `input_ids`, `labels`";
    for (record, found) in [
        ("{}", "no keys"),
        (r#"{"prompt":"w1"}"#, "keys `prompt`"),
        (r#"{"prompt":"w1","completion":"w2","answer":"w2"}"#, "keys `prompt`, `completion`, `answer`"),
        (r#"{"text":"w1","completion":"w2"}"#, "keys `text`, `completion`"),
        (r#"{"instruction":"w1","input":"w2"}"#, "keys `instruction`, `input`"),
        (r#"{"input_ids":[1],"labels":[1],"attention_mask":[1]}"#, "keys `input_ids`, `labels`, `attention_mask`"),
    ] {
        assert_eq!(refusal(&format!("{GOOD}\n{record}")), format!("0.jsonl:2: found {found}, {expected}"));
    }
    assert_eq!(
        refusal(r#"{"messages":[]}"#),
        "0.jsonl:1: found key `messages`, which is not supported yet, expected `prompt`, `completion`"
    );
}

#[test]
fn values_of_the_wrong_kind() {
    for (record, problem) in [
        (r#"{"text":7}"#, "found a number as `text`, expected a string"),
        (r#"{"text":""}"#, "found an empty `text`, expected text to learn"),
        (r#"{"prompt":null,"completion":"w1"}"#, "found null as `prompt`, expected a string"),
        (r#"{"prompt":"w1","completion":""}"#, "found an empty `completion`, expected text to learn"),
        (r#"{"prompt":"w1","completion":["w1"]}"#, "found an array as `completion`, expected a string"),
        (r#"{"instruction":{},"output":"w1"}"#, "found an object as `instruction`, expected a string"),
        (r#"{"instruction":"w1","output":""}"#, "found an empty `output`, expected text to learn"),
        (r#"{"instruction":"w1","input":null,"output":"w1"}"#, "found null as `input`, expected a string"),
        (r#"{"instruction":"w1","output":"w1","answer":true}"#, "found a boolean as `answer`, expected a string"),
        (r#"{"input_ids":"1","labels":[1]}"#, "found a string as `input_ids`, expected an array"),
        (r#"{"input_ids":[1,2],"labels":[1]}"#, "found 2 `input_ids` and 1 `labels`, expected as many"),
        (r#"{"input_ids":[1,2.0],"labels":[1,2]}"#, "found 2.0 in `input_ids` at position 1, expected a token id"),
        (r#"{"input_ids":[-1],"labels":[1]}"#, "found -1 in `input_ids` at position 0, expected a token id"),
    ] {
        assert_eq!(refusal(record), format!("0.jsonl:1: {problem}"));
    }
}

#[test]
fn ids_beyond_the_embedding() {
    let beyond = "0.jsonl:1: token id 40 at position 1 is beyond the embedding's 40 rows";
    assert_eq!(refusal(r#"{"input_ids":[39,40],"labels":[-100,39]}"#), beyond);
    for label in ["40", "-1", "-101", "1.5", "null"] {
        assert_eq!(
            refusal(&format!(r#"{{"input_ids":[39,39],"labels":[-100,{label}]}}"#)),
            format!(
                "0.jsonl:1: found {label} in `labels` at position 1, expected -100 (no loss) or a token id below 40"
            )
        );
    }
    let small = LoadOptions { vocab_size: 12, ..options() };
    let text = load_with(&[br#"{"text":"w0 w2"}"#], Some(&words("")), &small).unwrap_err();
    assert_eq!(text, "0.jsonl:1: token id 12 at position 2 is beyond the embedding's 12 rows");
}

#[test]
fn text_without_a_tokenizer() {
    let message = load_with(&[GOOD.as_bytes()], None, &options()).unwrap_err();
    assert_eq!(message, "0.jsonl:1: found text but no tokenizer, expected keys `input_ids`, `labels`");
}
