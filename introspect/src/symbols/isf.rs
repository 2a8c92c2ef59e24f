//! Volatility 3's form of a kernel's symbols: ISF 6.2.0 (`schema-6.2.0.json` of Volatility), written from kallsyms and BTF alone.
//!
//! What dwarf2json takes from debug information, and is not in BTF, comes from a table of our own: the types of globals
//! ([`globals`]). The tables of kallsyms, which kallsyms does not list, are added.

mod descriptor;
mod globals;
mod tags;

use std::io::{self, Write};

use lzma_rust2::{XzOptions, XzWriter};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::btf::{Btf, Kind, Type, TypeId};
use super::{LayoutsError, Symbols};
use descriptor::{Descriptor, Fields};
use tags::Tags;

/// The version of the format.
const FORMAT: &str = "6.2.0";
/// xz's level: 6 takes three times as long for a tenth less.
const XZ_PRESET: u32 = 1;
/// Bytes that are compressed at once.
const XZ_CHUNK_BYTES: usize = 1 << 16;

/// A kernel's symbols in Volatility's form; serialises as one JSON object of some 10 MB.
#[derive(Debug)]
pub struct Isf<'a> {
    symbols: &'a Symbols,
    btf: &'a Btf,
    tags: Tags,
}

impl<'a> Isf<'a> {
    /// The form of a kernel's symbols.
    ///
    /// # Errors
    /// [`LayoutsError`] of a kernel without types, which Volatility cannot use.
    pub fn new(symbols: &'a Symbols) -> Result<Self, &'a LayoutsError> {
        let btf = symbols.layouts()?;
        Ok(Self { symbols, btf, tags: Tags::of(btf) })
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = out;
        serde_json::to_writer(&mut out, self)?;
        out.flush()
    }

    /// Writes it compressed, as Volatility reads it from a `.json.xz`: some 1.3 MB.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_xz(&self, out: impl Write) -> io::Result<()> {
        let mut packed = XzWriter::new(out, XzOptions::with_preset(XZ_PRESET))?;
        self.write(io::BufWriter::with_capacity(XZ_CHUNK_BYTES, &mut packed))?;
        packed.finish()?.flush()
    }

    fn descriptor(&self, id: TypeId) -> Descriptor<'_> {
        Descriptor::new(self.btf, &self.tags, id)
    }
}

impl Serialize for Isf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("metadata", &metadata())?;
        map.serialize_entry("base_types", &BaseTypes(self))?;
        map.serialize_entry("user_types", &UserTypes(self))?;
        map.serialize_entry("enums", &Enums(self))?;
        map.serialize_entry("symbols", &Globals(self))?;
        map.end()
    }
}

/// The kinds are what the schema knows: it has no word for BTF.
fn metadata() -> Value {
    json!({
        "format": FORMAT,
        "producer": { "name": "honeynet", "version": env!("CARGO_PKG_VERSION") },
        "linux": { "symbols": [{ "kind": "symtab" }], "types": [{ "kind": "dwarf" }] },
    })
}

struct BaseTypes<'a>(&'a Isf<'a>);

impl Serialize for BaseTypes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let base = |bytes: u64, signed: bool, kind: &str| json!({ "size": bytes, "signed": signed, "kind": kind, "endian": "little" });
        let btf = self.0.btf;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("pointer", &base(8, false, "int"))?;
        map.serialize_entry("void", &base(0, false, "void"))?;
        for (id, found) in btf.types() {
            let (name, value) = match found {
                Type::Int { name, bytes, encoding, .. } => {
                    let kind = match encoding {
                        encoding if encoding & 4 != 0 => "bool",
                        // BTF's own mark of a character is never set.
                        _ if bytes == 1 && name.contains("char") => "char",
                        _ => "int",
                    };
                    (name, base(bytes, encoding & 1 != 0, kind))
                }
                Type::Float { name, bytes } => (name, base(bytes, true, "float")),
                _ => continue,
            };
            if btf.find(Kind::Base, name) == Some(id) {
                map.serialize_entry(name, &value)?;
            }
        }
        map.end()
    }
}

struct UserTypes<'a>(&'a Isf<'a>);

impl Serialize for UserTypes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct UserType<'a> {
            kind: &'static str,
            size: u64,
            fields: Fields<'a>,
        }
        let Isf { btf, tags, .. } = self.0;
        let mut map = serializer.serialize_map(None)?;
        for (id, found) in btf.types() {
            let Type::Composite { kind, bytes, members, .. } = found else { continue };
            let fields = Fields::new(btf, tags, members);
            map.serialize_entry(tags.get(id), &UserType { kind: tags::word(kind), size: bytes, fields })?;
        }
        map.end()
    }
}

struct Enums<'a>(&'a Isf<'a>);

impl Serialize for Enums<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Isf { btf, tags, .. } = self.0;
        let mut map = serializer.serialize_map(None)?;
        for (id, found) in btf.types() {
            let Type::Enum { bytes, values, .. } = found else { continue };
            let signed = values.iter().any(|(_, value)| value < 0);
            let base = match (bytes, signed) {
                (1, true) => "signed char",
                (1, false) => "unsigned char",
                (2, true) => "short int",
                (2, false) => "short unsigned int",
                (8, true) => "long int",
                (8, false) => "long unsigned int",
                (_, true) => "int",
                (_, false) => "unsigned int",
            };
            let constants: serde_json::Map<String, Value> =
                values.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            let value = json!({ "size": bytes, "base": base, "constants": constants });
            map.serialize_entry(tags.get(id), &value)?;
        }
        map.end()
    }
}

struct Globals<'a>(&'a Isf<'a>);

impl Serialize for Globals<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Isf { symbols, btf, .. } = self.0;
        let mut map = serializer.serialize_map(None)?;
        for symbol in symbols.kallsyms().first_of_each_name() {
            let (name, address) = (symbol.name, symbol.address.0);
            if name == "linux_banner" {
                let data = base64(symbols.banner.as_bytes());
                let chars = json!({ "kind": "array", "count": symbols.banner.len() + 1,
                    "subtype": { "kind": "base", "name": "char" } });
                let value = json!({ "address": address, "type": chars, "constant_data": data });
                map.serialize_entry(name, &value)?;
                continue;
            }
            let percpu = || btf.find(Kind::Variable, name).map(|id| json!(self.0.descriptor(id)));
            let known = globals::type_of(self.0, &symbol).or_else(percpu);
            map.serialize_entry(name, &entry(address, known))?;
        }
        for (name, address, known) in globals::tables(symbols.kallsyms().tables()) {
            map.serialize_entry(name, &entry(address.0, Some(known)))?;
        }
        map.end()
    }
}

fn entry(address: u64, known: Option<Value>) -> Value {
    match known {
        Some(known) => json!({ "address": address, "type": known }),
        None => json!({ "address": address }),
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |three: &[u8]| {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let count = three.len() + 1;
        (0..4).map(move |i| match i < count {
            true => char::from(DIGITS[(bits >> (18 - 6 * i) & 0x3f) as usize]),
            false => '=',
        })
    };
    bytes.chunks(3).flat_map(digits).collect()
}

#[cfg(test)]
mod tests;
