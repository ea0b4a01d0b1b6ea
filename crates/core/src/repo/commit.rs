//! A commit: one snapshot of a whole set. It exists if and only if its object exists, whole.
//!
//! Its place in the set's history is the sequence in the object's name; the body does not repeat it, so that the body can
//! be laid down in the session's end before the sequence is won (sessions). The body carries the snapshot's uuid and a
//! random token: who reads it back knows whether his create won.
//!
//! ```text
//! commit:   string set, snapshot 16, token 16, u64 role epoch, u64 time ns, option parent, option origin, u16 n tags of
//!           string, string host, string tool, u16 n volumes
//! volume:   string name, uuid 16, tracking 16, u16 generation, u64 size, u32 extent, u32 logical, u32 physical,
//!           option root page, root id 32, u64 stored extents, u64 stored bytes, u64 changed extents, u64 new bytes,
//!           option usage page, option hot list page
//! option:   one byte 0, or 1 and the value (uuid 16, page reference 48)
//! ```

use super::id::Id;
use super::place::PageRef;
use crate::bytes::{Malformed, Reader, Writer};
use crate::volume::{ExtentBytes, Generation, Geometry, Uuid};

/// The longest name of a set, volume, host or tool.
pub const NAME_MAX: usize = 255;
/// The most tags of a snapshot.
pub const TAGS_MAX: usize = 64;
/// The most volumes of a set.
pub const VOLUMES_MAX: usize = 1024;

/// One volume of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    /// Label in the set.
    pub name: String,
    /// Identity for life.
    pub uuid: Uuid,
    /// History in which the generation counts.
    pub tracking: Uuid,
    /// The generation this snapshot closed.
    pub generation: Generation,
    /// Shape.
    pub geometry: Geometry,
    /// Root page of the manifest; `None`: the volume is all zeros.
    pub root: Option<PageRef>,
    /// Merkle root over 16 KiB blocks: independent of place and extent size.
    pub root_id: Id,
    /// Extents that are not zero.
    pub stored_extents: u64,
    /// Bytes of their frames (shared ones counted each time).
    pub stored_bytes: u64,
    /// Extents that differ from the parent.
    pub changed_extents: u64,
    /// Bytes of frames this snapshot added for them.
    pub new_bytes: u64,
    /// Root page of the usage map.
    pub usage: Option<PageRef>,
    /// Head page of the hot list.
    pub hot_list: Option<PageRef>,
}

/// A snapshot of a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Name of the set.
    pub set: String,
    /// Identity of the snapshot, kept by copies.
    pub snapshot: Uuid,
    /// Random, for reading back.
    pub token: Uuid,
    /// The set's role epoch (0 until sites exist).
    pub role_epoch: u64,
    /// The instant, nanoseconds since 1970, by the writer's clock; for people and `@time`, never for safety.
    pub time_ns: u64,
    /// The snapshot it was made against.
    pub parent: Option<Uuid>,
    /// The repository or system it was copied from.
    pub origin: Option<Uuid>,
    /// Labels.
    pub tags: Vec<String>,
    /// Who made it.
    pub host: String,
    /// With what.
    pub tool: String,
    /// The volumes, in the set's order.
    pub volumes: Vec<VolumeRecord>,
}

fn encode_uuid_option(u: Option<Uuid>, w: &mut Writer) {
    match u {
        None => {
            w.u8(0);
        }
        Some(u) => {
            w.u8(1).raw(&u.0);
        }
    }
}

fn decode_uuid_option(r: &mut Reader<'_>) -> Result<Option<Uuid>, Malformed> {
    match r.u8("commit")? {
        0 => Ok(None),
        1 => Ok(Some(Uuid(r.array("commit")?))),
        _ => Err(Malformed("commit")),
    }
}

impl VolumeRecord {
    fn encode(&self, w: &mut Writer) {
        let g = &self.geometry;
        w.string(&self.name).raw(&self.uuid.0).raw(&self.tracking.0).u16(self.generation.0);
        w.u64(g.size).u32(g.extent.get() as u32).u32(g.logical_block).u32(g.physical_block);
        PageRef::encode_option(self.root.as_ref(), w);
        w.raw(&self.root_id.0).u64(self.stored_extents).u64(self.stored_bytes);
        w.u64(self.changed_extents).u64(self.new_bytes);
        PageRef::encode_option(self.usage.as_ref(), w);
        PageRef::encode_option(self.hot_list.as_ref(), w);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bad = Malformed("volume of a commit");
        let name = r.string(NAME_MAX, "volume name")?;
        let (uuid, tracking) = (Uuid(r.array("volume")?), Uuid(r.array("volume")?));
        let generation = Generation(r.u16("volume")?);
        let (size, extent) = (r.u64("volume")?, r.u32("volume")?);
        let extent = ExtentBytes::new(extent.into()).map_err(|_| bad)?;
        let geometry = Geometry::new(size, extent, r.u32("volume")?, r.u32("volume")?).map_err(|_| bad)?;
        let record = VolumeRecord {
            name,
            uuid,
            tracking,
            generation,
            geometry,
            root: PageRef::decode_option(r)?,
            root_id: Id(r.array("volume")?),
            stored_extents: r.u64("volume")?,
            stored_bytes: r.u64("volume")?,
            changed_extents: r.u64("volume")?,
            new_bytes: r.u64("volume")?,
            usage: PageRef::decode_option(r)?,
            hot_list: PageRef::decode_option(r)?,
        };
        let sane =
            record.stored_extents <= geometry.extents() && record.root.is_none() == record.root_id.is_zero();
        if sane { Ok(record) } else { Err(bad) }
    }
}

impl Commit {
    /// The body. Names, tags and volumes within their bounds (`check_bounds`) are the caller's duty.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.encode_into(&mut w);
        w.finish()
    }
    fn encode_into(&self, w: &mut Writer) {
        w.string(&self.set).raw(&self.snapshot.0).raw(&self.token.0).u64(self.role_epoch).u64(self.time_ns);
        encode_uuid_option(self.parent, w);
        encode_uuid_option(self.origin, w);
        w.u16(self.tags.len() as u16);
        for t in &self.tags {
            w.string(t);
        }
        w.string(&self.host).string(&self.tool).u16(self.volumes.len() as u16);
        self.volumes.iter().for_each(|v| v.encode(w));
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let commit = Self::decode_from(&mut r)?;
        r.end("commit")?;
        Ok(commit)
    }
    fn decode_from(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let set = r.string(NAME_MAX, "set name")?;
        let (snapshot, token) = (Uuid(r.array("commit")?), Uuid(r.array("commit")?));
        let (role_epoch, time_ns) = (r.u64("commit")?, r.u64("commit")?);
        let (parent, origin) = (decode_uuid_option(r)?, decode_uuid_option(r)?);
        let tags = (0..bounded(r, TAGS_MAX)?).map(|_| r.string(NAME_MAX, "tag")).collect::<Result<_, _>>()?;
        let (host, tool) = (r.string(NAME_MAX, "host")?, r.string(NAME_MAX, "tool")?);
        let volumes =
            (0..bounded(r, VOLUMES_MAX)?).map(|_| VolumeRecord::decode(r)).collect::<Result<_, _>>()?;
        Ok(Commit { set, snapshot, token, role_epoch, time_ns, parent, origin, tags, host, tool, volumes })
    }
    /// What keeps this from being written, if anything.
    pub fn check_bounds(&self) -> Result<(), Malformed> {
        let short = |s: &String| s.len() <= NAME_MAX;
        let names = [&self.set, &self.host, &self.tool].into_iter().all(short);
        let volumes = self.volumes.len() <= VOLUMES_MAX && self.volumes.iter().all(|v| short(&v.name));
        let tags = self.tags.len() <= TAGS_MAX && self.tags.iter().all(short);
        match (names, volumes, tags) {
            (true, true, true) => Ok(()),
            (false, ..) => Err(Malformed("name of set, host or tool: at most 255 bytes")),
            (_, false, _) => Err(Malformed("volumes: at most 1,024, names at most 255 bytes")),
            (.., false) => Err(Malformed("tags: at most 64 of at most 255 bytes")),
        }
    }
}

fn bounded(r: &mut Reader<'_>, max: usize) -> Result<usize, Malformed> {
    let n = r.u16("commit")? as usize;
    if n <= max { Ok(n) } else { Err(Malformed("commit")) }
}

/// How many commits lie between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 256;

/// All live commits of a set up to a sequence, so that listing them is a few reads. A cache of what the commits say:
/// a commit that it lists exists only while its own object does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Sequence and body, ascending.
    pub commits: Vec<(u64, Commit)>,
}

impl Checkpoint {
    /// u32 count, then u64 sequence and body of each.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(self.commits.len() as u32);
        for (seq, commit) in &self.commits {
            w.u64(*seq);
            commit.encode_into(&mut w);
        }
        w.finish()
    }
    /// Reads a checkpoint; sequences must ascend.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let mut commits: Vec<(u64, Commit)> = Vec::new();
        for _ in 0..r.u32("checkpoint")? {
            let seq = r.u64("checkpoint")?;
            if commits.last().is_some_and(|(last, _)| *last >= seq) {
                return Err(Malformed("checkpoint order"));
            }
            commits.push((seq, Commit::decode_from(&mut r)?));
        }
        r.end("checkpoint")?;
        Ok(Checkpoint { commits })
    }
}
