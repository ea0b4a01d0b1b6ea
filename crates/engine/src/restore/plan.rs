//! What a restore is, durably: one record in the state folder, replaced as a whole, so that the same command resumes it
//! after any crash. Written when the restore begins or goes on, around each settling (`stamp`), when a backup instant
//! closes a generation, when verification ends, and at the hand-over: from that record on the log is void and the
//! destination is the volume.

use super::stamp::Stamp;
use super::write_log::LogLimits;
use rekindle_core::volume::{ExtentBytes, Generation, Geometry, Uuid};
use rekindle_io::logfile::{LogDir, TwoSlot};
use rekindle_io::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

pub(super) const NAME: &str = "restore";
const BODY_MAX: usize = 256 << 10;
const FORMAT: u32 = 2;

/// How far a restore is, as far as it changes what may be done after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Log, state and holder are needed.
    Restoring,
    /// Handed over: the destinations are the volumes, the log is never read again.
    Live,
}

/// One volume of the record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedVolume {
    /// Label inside the set.
    pub name: String,
    /// Identity for life.
    pub volume: String,
    /// The moment it is restored to, as its holder knows it.
    pub moment: String,
    /// Fresh for this restore: generations count in it from 0, which is the moment. Fresh again when a snapshot turns out to
    /// have closed a generation that is still open here.
    pub tracking: String,
    /// Tracking and generation of the snapshot it is restored from, which generation 0 stands for.
    pub origin: Option<(String, u16)>,
    /// Bytes.
    pub size: u64,
    /// Bytes of an extent.
    pub extent: u64,
    /// Logical and physical block.
    pub blocks: (u32, u32),
    /// Where the destination is, for whoever opens it again.
    pub destination: String,
}

/// The record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanRecord {
    format: u32,
    /// Identity of this restore: its hold, its label, its log.
    pub restore: String,
    /// The set's name.
    pub set: String,
    /// In the set's order.
    pub volumes: Vec<PlannedVolume>,
    /// Segment bytes, bytes, pieces, block.
    pub log: (u64, u64, u64, u64),
    /// What guest writes are marked with now.
    pub generation: u8,
    /// How far.
    pub phase: Phase,
    /// Every extent was read back and is what the moment or the guest wrote.
    pub verified: bool,
    /// Stamps that may lie in the destinations, count and opening; the last is what they carry or are to carry.
    pub(super) stamps: Vec<(u64, String)>,
    /// A hand-over began to put the edges in place of label and stamps.
    pub(super) written_back: bool,
    /// What the caller needs to open repository and destinations again; not looked at here.
    pub app: serde_json::Value,
}

fn uuid(text: &str) -> Result<Uuid> {
    text.parse().map_err(|e| Error::new(Kind::Corrupt, format!("restore record: {e}")))
}

impl PlannedVolume {
    /// Its shape.
    pub fn geometry(&self) -> Result<Geometry> {
        ExtentBytes::new(self.extent)
            .and_then(|e| Geometry::new(self.size, e, self.blocks.0, self.blocks.1))
            .map_err(|e| Error::new(Kind::Corrupt, format!("restore record, volume {}: {e}", self.name)))
    }
    /// The moment.
    pub fn moment(&self) -> Result<Uuid> {
        uuid(&self.moment)
    }
    /// The tracking uuid.
    pub fn tracking(&self) -> Result<Uuid> {
        uuid(&self.tracking)
    }
    /// What generation 0 stands for.
    pub fn origin(&self) -> Result<Option<(Uuid, Generation)>> {
        self.origin.as_ref().map(|(t, g)| Ok((uuid(t)?, Generation(*g)))).transpose()
    }
    /// The volume's identity.
    pub fn volume(&self) -> Result<Uuid> {
        uuid(&self.volume)
    }
}

impl PlanRecord {
    pub(super) fn new(
        set: &str,
        volumes: Vec<PlannedVolume>,
        log: LogLimits,
        app: serde_json::Value,
    ) -> Self {
        PlanRecord {
            format: FORMAT,
            restore: rekindle_io::random::uuid().to_string(),
            set: set.into(),
            volumes,
            log: (log.segment_bytes, log.bytes_max, log.pieces_max as u64, log.block_bytes),
            generation: 1,
            phase: Phase::Restoring,
            verified: false,
            stamps: Vec::new(),
            written_back: false,
            app,
        }
    }
    /// The stamps that may lie in the destinations.
    pub(super) fn known_stamps(&self) -> Result<Vec<Stamp>> {
        let stamp = |(count, opening): &(u64, String)| Ok(Stamp { count: *count, opening: uuid(opening)? });
        self.stamps.iter().map(stamp).collect()
    }
    pub(super) fn set_stamps(&mut self, known: &[Stamp]) {
        self.stamps = known.iter().map(|s| (s.count, s.opening.to_string())).collect();
    }
    /// Identity of the restore.
    pub fn restore_uuid(&self) -> Result<Uuid> {
        uuid(&self.restore)
    }
    pub(super) fn log_limits(&self) -> LogLimits {
        let (segment_bytes, bytes_max, pieces, block_bytes) = self.log;
        LogLimits { segment_bytes, bytes_max, pieces_max: pieces as usize, block_bytes }
    }
}

/// Files a restore keeps in its folder.
pub(super) fn is_ours(name: &str) -> bool {
    name == NAME || ["log-", "state-", "edges-"].iter().any(|p| name.starts_with(p))
}

/// Where the record is kept.
pub(super) struct PlanSlot {
    slot: TwoSlot,
}

impl PlanSlot {
    pub fn open(dir: &dyn LogDir) -> Result<Self> {
        Ok(PlanSlot { slot: TwoSlot::open(dir, NAME, BODY_MAX)? })
    }
    pub fn create(dir: &dyn LogDir) -> Result<Self> {
        Ok(PlanSlot { slot: TwoSlot::create(dir, NAME, BODY_MAX)? })
    }
    pub fn load(&self) -> Result<Option<PlanRecord>> {
        let Some(body) = self.slot.load() else { return Ok(None) };
        let bad = |e: String| Error::new(Kind::Corrupt, format!("restore record: {e}"));
        let plan: serde_json::Value = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
        // Before its fields: another format may have others.
        if plan["format"] != FORMAT {
            return Err(bad(format!("format {} is not known to this version", plan["format"])));
        }
        serde_json::from_value(plan).map(Some).map_err(|e| bad(e.to_string()))
    }
    pub fn store(&self, plan: &PlanRecord) -> Result<()> {
        let body = serde_json::to_vec(plan)
            .map_err(|e| Error::new(Kind::Invalid, format!("restore record: {e}")))?;
        if body.len() > BODY_MAX {
            return Err(Error::new(Kind::Invalid, "restore record: too many volumes or too long names"));
        }
        self.slot.store(&body)
    }
}

/// What a state folder holds of a restore, without opening it; `None` if there is none.
pub fn peek(dir: &dyn LogDir) -> Result<Option<PlanRecord>> {
    if dir.open(NAME)?.is_none() {
        return Ok(None);
    }
    PlanSlot::open(dir)?.load()
}
