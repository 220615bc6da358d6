//! A part of a body of JSON that should have a certain shape, and may have any.
//!
//! A body of such parts is read in one pass. Reading it level by level, each from the bytes of the
//! one above it, took twice as long.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

/// An object that is read as an `O`, a list whose items are read as `I`s, or something else.
#[derive(Debug, Default)]
pub(super) enum Part<O, I> {
    #[default]
    Missing,
    Object(O),
    List(Vec<I>),
    Other,
}

impl<'de, O: Deserialize<'de>, I: Deserialize<'de>> Deserialize<'de> for Part<O, I> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Part<O, I>, D::Error> {
        deserializer.deserialize_any(AnyShape(PhantomData))
    }
}

struct AnyShape<O, I>(PhantomData<(O, I)>);

impl<'de, O: Deserialize<'de>, I: Deserialize<'de>> Visitor<'de> for AnyShape<O, I> {
    type Value = Part<O, I>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Part<O, I>, A::Error> {
        O::deserialize(MapAccessDeserializer::new(map)).map(Part::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Part<O, I>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Part::List)
    }

    fn visit_unit<E>(self) -> Result<Part<O, I>, E> {
        Ok(Part::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Part<O, I>, E> {
        Ok(Part::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Part<O, I>, E> {
        Ok(Part::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Part<O, I>, E> {
        Ok(Part::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Part<O, I>, E> {
        Ok(Part::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Part<O, I>, E> {
        Ok(Part::Other)
    }
}
