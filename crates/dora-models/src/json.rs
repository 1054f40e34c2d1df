//! JSON objects read strictly: of two equal keys a plain reader keeps the last one in silence; here they are an error.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Parses a file's bytes, which must be one JSON object without duplicate keys at any depth.
pub fn object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes).map_err(Error::json(path))? {
        Strict(Value::Object(map)) => Ok(map),
        Strict(_) => Err(Error::Json { path: path.into(), line: 1, column: 1, found: "expected a JSON object".into() }),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        object(text.as_bytes(), Path::new("a.json")).unwrap_err().to_string()
    }

    #[test]
    fn agrees_with_the_plain_parser() {
        let text = r#"{"a":[null,true,-3,18446744073709551615,1.5e-3,"é\n",[],{}],"b":{"c":{"d":0}}}"#;
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(object(text.as_bytes(), Path::new("a.json")).unwrap()), plain);
    }

    #[test]
    fn names_the_place_of_a_duplicate_key() {
        assert_eq!(message("{\"a\":1,\n \"a\":2}"), "a.json:2:4: duplicate key \"a\"");
        assert!(message(r#"{"x":[{"b":1,"b":1}]}"#).contains("duplicate key \"b\""));
    }

    #[test]
    fn refuses_what_is_no_object_or_no_json() {
        assert_eq!(message("[]"), "a.json:1:1: expected a JSON object");
        assert!(message("").starts_with("a.json:1:0: EOF"));
        assert!(message("\u{feff}{}").starts_with("a.json:1:1: expected value"));
        assert!(message("{} {}").contains("trailing characters"));
    }
}
