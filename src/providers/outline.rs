//! The outline of a body of JSON: its members and items down to a certain level, and what is on
//! that level as it stands in the body.
//!
//! It is made in one pass. Reading a body level by level, each from the bytes of the one above it,
//! took twice as long.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

#[derive(Debug)]
pub(super) enum Outline<'a> {
    Object(Vec<(Cow<'a, str>, Outline<'a>)>),
    List(Vec<Outline<'a>>),
    Text(Cow<'a, str>),
    /// Null, a boolean or a number.
    Scalar,
    /// A value of the last level.
    Json(&'a RawValue),
    /// What an object does not have.
    Missing,
}

impl<'a> Outline<'a> {
    /// `levels` is how many lists and objects are around what is left as it stands.
    ///
    /// # Errors
    /// The body is not JSON.
    pub(super) fn of(body: &'a [u8], levels: u8) -> serde_json::Result<Outline<'a>> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let outline = Levels(levels).deserialize(&mut json)?;
        json.end()?;
        Ok(outline)
    }

    /// The member of an object. Of equal names the last one counts.
    pub(super) fn member(&self, name: &str) -> &Outline<'a> {
        let Outline::Object(members) = self else { return &Outline::Missing };
        let found = members.iter().rev().find(|(other, _)| other == name);
        found.map_or(&Outline::Missing, |(_, value)| value)
    }

    /// The items of a list; `None` for anything else.
    pub(super) fn items(&self) -> Option<&[Outline<'a>]> {
        if let Outline::List(items) = self { Some(items) } else { None }
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Outline::Missing)
    }

    /// What is left as it stands; null for anything else.
    pub(super) fn json(&self) -> &'a RawValue {
        if let Outline::Json(json) = self { json } else { RawValue::NULL }
    }

    /// The same as a value; null where it is none that can be used, such as one with half a
    /// surrogate pair in a text.
    pub(super) fn value(&self) -> Value {
        serde_json::from_str(self.json().get()).unwrap_or_default()
    }
}

/// The levels that are left.
struct Levels(u8);

impl<'de> DeserializeSeed<'de> for Levels {
    type Value = Outline<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Outline<'de>, D::Error> {
        if self.0 == 0 {
            Deserialize::deserialize(json).map(Outline::Json)
        } else {
            json.deserialize_any(self)
        }
    }
}

/// A name, borrowed where it has no escape.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Levels {
    type Value = Outline<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, map.next_value_seed(Levels(self.0 - 1))?));
        }
        Ok(Outline::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Outline<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Levels(self.0 - 1))? {
            items.push(item);
        }
        Ok(Outline::List(items))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Outline<'de>, E> {
        Ok(Outline::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Outline<'de>, E> {
        Ok(Outline::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Outline<'de>, E> {
        Ok(Outline::Scalar)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Outline<'de>, E> {
        Ok(Outline::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Outline<'de>, E> {
        Ok(Outline::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Outline<'de>, E> {
        Ok(Outline::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Outline<'de>, E> {
        Ok(Outline::Scalar)
    }
}
