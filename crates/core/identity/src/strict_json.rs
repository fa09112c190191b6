//! JSON as a security document needs it: no member twice, bounded nesting, one value and nothing behind it.
//!
//! RFC 8259 leaves it open what a repeated member means, so two readers of one document may see two documents (SPIFFE Trust
//! Domain and Bundle, section 6.3). Numbers keep 64 bits: `serde_json` reads integers up to `u64::MAX` exactly.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Objects and arrays inside each other. A bundle needs four, honest claims two or three.
pub(crate) const NESTING_MAX: usize = 16;

/// Why bytes are no JSON for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    /// A member twice in one object.
    #[error("the member `{0}` stands twice in one object")]
    DuplicateMember(String),
    /// More than 16 objects and arrays inside each other.
    #[error("the values are nested deeper than {max}", max = NESTING_MAX)]
    TooDeep,
    /// No JSON, or more than one value.
    #[error("it is not JSON: {0}")]
    Syntax(String),
}

/// Reads one JSON value.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, StrictJsonError> {
    let fault = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0, fault: &fault }.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| fault.into_inner().unwrap_or_else(|| StrictJsonError::Syntax(error.to_string())))
}

/// Reads one JSON object.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, StrictJsonError> {
    match parse(bytes)? {
        Value::Object(object) => Ok(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(StrictJsonError::Syntax("it is not an object".to_owned()))
        }
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    /// What serde's errors cannot carry: which rule was broken.
    fault: &'a RefCell<Option<StrictJsonError>>,
}

impl Strict<'_> {
    fn inside<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == NESTING_MAX {
            return Err(self.fail(StrictJsonError::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn fail<E: serde::de::Error>(self, fault: StrictJsonError) -> E {
        let error = E::custom(&fault);
        *self.fault.borrow_mut() = Some(fault);
        error
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(inside)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(self.fail(StrictJsonError::DuplicateMember(name)));
            }
            object.insert(name, members.next_value_seed(inside)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_twice_is_refused_at_any_depth() {
        let twice =
            |json: &str| assert_eq!(parse(json.as_bytes()), Err(StrictJsonError::DuplicateMember("a".to_owned())));
        twice(r#"{"a":1,"a":1}"#);
        twice(r#"{"b":[{"a":1,"c":2,"a":1}]}"#);
        twice(r#"{"a":1,"\u0061":1}"#);
        assert!(parse(br#"{"a":{"a":1}}"#).is_ok());
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(NESTING_MAX).as_bytes()).is_ok());
        assert_eq!(parse(nested(NESTING_MAX + 1).as_bytes()), Err(StrictJsonError::TooDeep));
        assert_eq!(parse("[".repeat(100_000).as_bytes()), Err(StrictJsonError::TooDeep));
    }

    #[test]
    fn what_is_not_exactly_one_json_value_is_refused() {
        for json in ["", "{", "{} {}", "{},", "{'a':1}", "NaN", "1e999", "\"\\ud800\"", "[1,]", "\u{feff}{}"] {
            assert!(matches!(parse(json.as_bytes()), Err(StrictJsonError::Syntax(_))), "{json}");
        }
        assert!(parse(b"\"\xff\"").is_err(), "not UTF-8");
        assert_eq!(parse(b" 18446744073709551615 ").unwrap(), u64::MAX);
        assert!(parse_object(b"[]").is_err());
    }
}
