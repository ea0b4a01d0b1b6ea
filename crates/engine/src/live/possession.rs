//! Whether the image is the one we left, as we left it. Tracking proves nothing about writes behind our back, so it
//! holds only while every gap in possession is proven empty; any doubt voids it and says why.
//!
//! - After a clean stop: device, inode, size, mtime and ctime are as recorded, to the nanosecond.
//! - After an unclean stop there is no record of the last write. While we serve, a pulse (wall time) is kept beside the
//!   state; an image that was touched well after the last pulse was touched by somebody else. Within the slack a foreign
//!   write goes unnoticed: whoever boots an image elsewhere after a crash writes to it for longer than that.
//! - A block device tells nothing: any gap counts.

use super::record::{Left, Record};
use rekindle_core::bytes::{Reader, Writer, crc32c};
use rekindle_io::Result;
use rekindle_io::block::ImageFacts;
use rekindle_io::logfile::{LogDir, LogFile};
use std::sync::Arc;

/// An image may be touched this long after the last durable pulse by ourselves: pulses are made durable by checkpoints.
pub(super) const SLACK_NS: u64 = 180_000_000_000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nobody touched it.
    Ours,
    /// Nothing is proven about it, because:
    Void(String),
}

/// Judges a volume that is being opened.
pub(super) fn judge(record: &Record, facts: &ImageFacts, pulse_ns: Option<u64>) -> Verdict {
    let void = |why: &str| Verdict::Void(why.to_string());
    if facts.is_device {
        return void("the device was out of our hands for a while, and a device keeps no record of writes");
    }
    if record.image != (facts.device, facts.inode) {
        return void("another file lies at the image's place");
    }
    if facts.size != record.geometry.size {
        return Verdict::Void(format!("its size went from {} to {} bytes", record.geometry.size, facts.size));
    }
    match (record.left, pulse_ns) {
        (Left::Clean(left), _) if left == *facts => Verdict::Ours,
        (Left::Clean(left), _) if left.modified_ns != facts.modified_ns => {
            void("it was written by somebody else while we did not serve it")
        }
        (Left::Clean(_), _) => void("its inode was changed by somebody else while we did not serve it"),
        (Left::Open, None) => void("it was not closed cleanly, and when it was last ours is not known"),
        (Left::Open, Some(pulse)) => {
            if facts.modified_ns.max(facts.changed_ns) > pulse.saturating_add(SLACK_NS) {
                void("it was not closed cleanly, and somebody else touched it since")
            } else {
                Verdict::Ours
            }
        }
    }
}

/// The file `pulse`: wall time u64, CRC-32C u32. Small enough to be written whole or not at all.
pub(super) struct Pulse {
    file: Arc<dyn LogFile>,
}

impl Pulse {
    pub(super) fn open(dir: &dyn LogDir) -> Result<Pulse> {
        let file = match dir.open("pulse")? {
            Some(f) => f,
            None => dir.create("pulse")?,
        };
        Ok(Pulse { file })
    }
    pub(super) fn read(&self) -> Result<Option<u64>> {
        let mut raw = [0; 12];
        self.file.read_at(0, &mut raw)?;
        let r = &mut Reader::new(&raw);
        let fields = r.u64("pulse").and_then(|ns| r.u32("checksum").map(|crc| (ns, crc)));
        Ok(fields.ok().filter(|(_, crc)| *crc == crc32c(&raw[..8])).map(|(ns, _)| ns))
    }
    pub(super) fn write(&self, wall_ns: u64) -> Result<()> {
        let mut w = Writer::new();
        w.u64(wall_ns);
        let crc = crc32c(w.bytes());
        w.u32(crc);
        self.file.write_at(0, &[w.bytes()])
    }
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use rekindle_core::volume::{ExtentBytes, Generation, Geometry, Uuid};

    #[test]
    fn any_difference_voids_and_says_why() {
        let facts =
            ImageFacts { is_device: false, device: 1, inode: 2, size: 4096, modified_ns: 50, changed_ns: 60 };
        let record = |left| Record {
            name: "a".into(),
            uuid: Uuid::default(),
            tracking: Uuid::default(),
            generation: Generation(1),
            origin: None,
            geometry: Geometry::new(4096, ExtentBytes::DEFAULT, 512, 4096).unwrap(),
            left,
            image: (1, 2),
            since: String::new(),
        };
        let (clean, open) = (record(Left::Clean(facts)), record(Left::Open));
        let void = |r: &Record, f: ImageFacts, pulse, word: &str| match judge(r, &f, pulse) {
            Verdict::Void(why) => assert!(why.contains(word), "{why}"),
            Verdict::Ours => panic!("trusted: {word}"),
        };
        assert_eq!(judge(&clean, &facts, None), Verdict::Ours);
        assert_eq!(judge(&open, &facts, Some(40)), Verdict::Ours);
        void(&clean, ImageFacts { modified_ns: 51, ..facts }, None, "written by somebody");
        void(&clean, ImageFacts { changed_ns: 61, ..facts }, None, "inode was changed");
        void(&clean, ImageFacts { inode: 3, ..facts }, None, "another file");
        void(&clean, ImageFacts { size: 8192, ..facts }, None, "from 4096 to 8192");
        void(&clean, ImageFacts { is_device: true, ..facts }, None, "device");
        void(&open, facts, None, "not known");
        void(&open, ImageFacts { changed_ns: 41 + SLACK_NS, ..facts }, Some(40), "touched it since");
    }
}
