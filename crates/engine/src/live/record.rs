//! What a live volume keeps about itself between runs: who it is, its shape, its tracking, how it was left.
//!
//! A two-slot record `volume` in the volume's state folder. It names the files of the tracking it belongs to by the
//! tracking uuid, so that replacing the record is what switches from one tracking to the next.

use rekindle_core::bytes::{Malformed, Reader, Writer};
use rekindle_core::volume::{ExtentBytes, Generation, Geometry, Uuid};
use rekindle_io::block::ImageFacts;
use rekindle_io::logfile::{LogDir, TwoSlot};
use rekindle_io::{Error, Kind, Result};

/// Name of the record's file.
pub(super) const FILE: &str = "volume";
const BODY_MAX: usize = 2000;
const VERSION: u16 = 1;

/// How the volume was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// It is open, or the process or machine died while it was.
    Open,
    /// At a clean stop, or when it was handed over by a restore: what the image looked like.
    Clean(ImageFacts),
}

/// The record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub name: String,
    pub uuid: Uuid,
    pub tracking: Uuid,
    /// The open generation: the one that writes are marked with. At least 1.
    pub generation: Generation,
    /// The moment that generation 0 stands for, as its snapshot names it.
    pub origin: Option<(Uuid, Generation)>,
    pub geometry: Geometry,
    pub left: Left,
    /// Device and inode it was last opened on.
    pub image: (u64, u64),
    /// Why the tracking began, for people.
    pub since: String,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(VERSION).string(&self.name).raw(&self.uuid.0).raw(&self.tracking.0).u16(self.generation.0);
        let (t, g) = self.origin.unwrap_or_default();
        w.u8(u8::from(self.origin.is_some())).raw(&t.0).u16(g.0);
        let g = &self.geometry;
        w.u64(g.size).u64(g.extent.get()).u32(g.logical_block).u32(g.physical_block);
        let facts = match self.left {
            Left::Open => ImageFacts::default(),
            Left::Clean(f) => f,
        };
        w.u8(u8::from(self.left != Left::Open)).u8(u8::from(facts.is_device));
        w.u64(facts.device).u64(facts.inode).u64(facts.size).u64(facts.modified_ns).u64(facts.changed_ns);
        w.u64(self.image.0).u64(self.image.1).string(&self.since);
        w.finish()
    }
    fn decode(bytes: &[u8]) -> Result<Record, Malformed> {
        let r = &mut Reader::new(bytes);
        if r.u16("version")? != VERSION {
            return Err(Malformed("version"));
        }
        let (name, uuid) = (r.string(255, "name")?, Uuid(r.array("uuid")?));
        let (tracking, generation) = (Uuid(r.array("tracking")?), Generation(r.u16("generation")?));
        let has_origin = r.u8("origin")? != 0;
        let origin = (Uuid(r.array("origin")?), Generation(r.u16("origin")?));
        let size = r.u64("size")?;
        let extent = ExtentBytes::new(r.u64("extent")?).map_err(|_| Malformed("extent"))?;
        let geometry = Geometry::new(size, extent, r.u32("block")?, r.u32("block")?);
        let clean = r.u8("left")? != 0;
        let facts = ImageFacts {
            is_device: r.u8("device")? != 0,
            device: r.u64("facts")?,
            inode: r.u64("facts")?,
            size: r.u64("facts")?,
            modified_ns: r.u64("facts")?,
            changed_ns: r.u64("facts")?,
        };
        let record = Record {
            name,
            uuid,
            tracking,
            generation,
            origin: has_origin.then_some(origin),
            geometry: geometry.map_err(|_| Malformed("geometry"))?,
            left: if clean { Left::Clean(facts) } else { Left::Open },
            image: (r.u64("image")?, r.u64("image")?),
            since: r.string(500, "since")?,
        };
        r.end("record")?;
        Ok(record)
    }
}

/// The record's file.
pub(super) struct RecordFile {
    slots: TwoSlot,
    place: String,
}

impl RecordFile {
    pub(super) fn open(dir: &dyn LogDir) -> Result<RecordFile> {
        Ok(RecordFile { slots: TwoSlot::open(dir, FILE, BODY_MAX)?, place: dir.place() })
    }
    pub(super) fn load(&self) -> Result<Option<Record>> {
        let Some(body) = self.slots.load() else { return Ok(None) };
        Record::decode(&body)
            .map(Some)
            .map_err(|e| Error::new(Kind::Corrupt, format!("record of the volume in {}: {e}", self.place)))
    }
    pub(super) fn store(&self, record: &Record) -> Result<()> {
        self.slots.store(&record.encode())
    }
}

/// A string that fits the record.
pub(super) fn shortened(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_cut_is_an_error() {
        let record = Record {
            name: "shop".into(),
            uuid: Uuid([1; 16]),
            tracking: Uuid([2; 16]),
            generation: Generation(3),
            origin: Some((Uuid([4; 16]), Generation(5))),
            geometry: Geometry::new(1 << 30, ExtentBytes::DEFAULT, 512, 4096).unwrap(),
            left: Left::Clean(ImageFacts {
                is_device: false,
                device: 6,
                inode: 7,
                size: 1 << 30,
                modified_ns: 8,
                changed_ns: 9,
            }),
            image: (6, 7),
            since: "new".into(),
        };
        let bytes = record.encode();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let (ones, twos, fours) = ("01".repeat(16), "02".repeat(16), "04".repeat(16));
        let expected = [
            "0100040073686f70",
            &ones,
            &twos,
            "030001",
            &fours,
            "0500",
            "00000040000000000000010000000000",
            "0002000000100000",
            "0100",
            "0600000000000000",
            "0700000000000000",
            "0000004000000000",
            "0800000000000000",
            "0900000000000000",
            "0600000000000000",
            "0700000000000000",
            "03006e6577",
        ]
        .concat();
        assert_eq!(hex, expected);
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        for cut in 0..bytes.len() {
            assert!(Record::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let open = Record { left: Left::Open, origin: None, ..record };
        assert_eq!(Record::decode(&open.encode()).unwrap(), open);
    }

    #[test]
    fn shortening_keeps_characters_whole() {
        assert_eq!(shortened("grün", 3), "gr");
        assert_eq!(shortened("ab", 3), "ab");
    }
}
