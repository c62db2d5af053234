//! JSON objects without duplicate names. Of two values of one name, some parsers take the first and others the last.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a text is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// Whether a name is given twice in one object; otherwise the text is not JSON.
    pub(crate) twice: bool,
}

/// Reads a value.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, Refused> {
    match serde_json::from_slice::<Unique>(bytes) {
        Ok(Unique(value)) => Ok(value),
        Err(error) => {
            let twice = error.is_data() && error.to_string().starts_with(TWICE);
            Err(Refused { line: error.line(), column: error.column(), twice })
        }
    }
}

const TWICE: &str = "a name is given twice";

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

#[derive(Clone, Copy)]
struct Reader;

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = pairs.next_key::<String>()? {
            let value = pairs.next_value_seed(self)?;
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom(TWICE));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicate_names_are_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"b":1}}"#, r#"[{"a":1,"\u0061":2}]"#] {
            assert!(read(text.as_bytes()).unwrap_err().twice, "{text}");
        }
        assert_eq!(read(br#"{"a":[{"b":1},{"b":1}],"b":{}}"#).unwrap(), json!({"a": [{"b": 1}, {"b": 1}], "b": {}}));
        for text in ["", "{", "{}x", "[1,]", "nul", r#"{"a" 1}"#] {
            assert!(!read(text.as_bytes()).unwrap_err().twice, "{text}");
        }
    }

    proptest! {
        #[test]
        fn everything_else_is_read_like_serde_json_reads_it(text in r#"[\[\]{}",:a1.e\- \\]{0,40}"#) {
            let plain = serde_json::from_str::<Value>(&text).ok();
            match read(text.as_bytes()) {
                Ok(value) => prop_assert_eq!(Some(value), plain),
                Err(refused) => prop_assert!(refused.twice || plain.is_none()),
            }
        }
    }
}
