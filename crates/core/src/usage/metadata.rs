//! Where partition tables and file systems keep what every start reads: ranges that come early when no usage map names them.
//!
//! A pure reader of untrusted bytes: it asks for small ranges through a closure, follows MBR (extended partitions too), GPT,
//! ext2/3/4 and XFS, and never fails: what makes no sense is left out, since a hint costs speed only. All that is read and
//! returned is bounded, so a forged superblock cannot make it run long.

use crate::volume::ByteRange;

/// Ranges returned at most.
const RANGES_MAX: usize = 65_536;
/// Reads at most: about 200 ms on a disk, thrice that through a repository.
const READS_MAX: usize = 4096;
const PARTITIONS_MAX: usize = 128;

/// Reads `buf.len()` bytes at an offset; false: could not.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> bool + 'a;

/// Ranges of a volume of `size` bytes that a start reads first, ascending, joined.
pub fn metadata_ranges(size: u64, read: &mut ReadAt<'_>) -> Vec<ByteRange> {
    let mut s = Scan { size, read, reads: 0, ranges: Vec::new() };
    s.add(0, 64 << 10);
    s.add(size.saturating_sub(64 << 10), 64 << 10);
    for part in s.partitions() {
        s.file_system(part);
    }
    s.joined()
}

struct Scan<'a, 'b> {
    size: u64,
    read: &'a mut ReadAt<'b>,
    reads: usize,
    ranges: Vec<ByteRange>,
}

fn le16(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 2).map_or(0, |s| u64::from(s[0]) | u64::from(s[1]) << 8)
}
fn le32(b: &[u8], at: usize) -> u64 {
    le16(b, at) | le16(b, at + 2) << 16
}
fn le64(b: &[u8], at: usize) -> u64 {
    le32(b, at) | le32(b, at + 4) << 32
}
fn be32(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 4).map_or(0, |s| s.iter().fold(0, |n, x| n << 8 | u64::from(*x)))
}
fn be64(b: &[u8], at: usize) -> u64 {
    be32(b, at) << 32 | be32(b, at + 4)
}

/// Kind, first sector and count of the four entries of a boot record.
fn entries(record: &[u8]) -> [(u8, u64, u64); 4] {
    [446, 462, 478, 494].map(|at| (record[at + 4], le32(record, at + 8), le32(record, at + 12)))
}

impl Scan<'_, '_> {
    fn bytes(&mut self, at: u64, len: usize) -> Option<Vec<u8>> {
        let end = at.checked_add(len as u64)?;
        if end > self.size || self.reads >= READS_MAX {
            return None;
        }
        self.reads += 1;
        let mut buf = vec![0; len];
        (self.read)(at, &mut buf).then_some(buf)
    }
    fn add(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len).min(self.size);
        if start < end && self.ranges.len() < RANGES_MAX {
            self.ranges.push(ByteRange::new(start, end - start));
        }
    }
    /// The volume itself (a file system without partitions) and every partition.
    fn partitions(&mut self) -> Vec<ByteRange> {
        let mut found = vec![ByteRange::new(0, self.size)];
        let Some(mbr) = self.bytes(0, 512) else { return found };
        if mbr[510..] != [0x55, 0xaa] {
            return found;
        }
        for (kind, first, count) in entries(&mbr) {
            match kind {
                0 => {}
                0xee => self.gpt(&mut found),
                0x05 | 0x0f | 0x85 => self.extended(first, &mut found),
                _ => self.partition(first, count, 512, &mut found),
            }
        }
        found
    }
    fn partition(&self, first: u64, count: u64, block: u64, found: &mut Vec<ByteRange>) {
        let (Some(start), Some(len)) = (first.checked_mul(block), count.checked_mul(block)) else { return };
        if start > 0 && start < self.size && len > 0 && found.len() < PARTITIONS_MAX {
            found.push(ByteRange::new(start, len.min(self.size - start)));
        }
    }
    /// Logical partitions: a chain of boot records, each naming one partition and the next record.
    fn extended(&mut self, base: u64, found: &mut Vec<ByteRange>) {
        let mut at = base;
        for _ in 0..32 {
            let Some(ebr) = at.checked_mul(512).and_then(|b| self.bytes(b, 512)) else { return };
            if ebr[510..] != [0x55, 0xaa] {
                return;
            }
            self.add(at * 512, 512);
            let list = entries(&ebr);
            if list[0].0 != 0 {
                self.partition(at.saturating_add(list[0].1), list[0].2, 512, found);
            }
            if list[1].0 == 0 || list[1].1 == 0 {
                return;
            }
            at = base.saturating_add(list[1].1);
        }
    }
    fn gpt(&mut self, found: &mut Vec<ByteRange>) {
        for block in [512, 4096] {
            let Some(head) = self.bytes(block, 92).filter(|h| h.starts_with(b"EFI PART")) else { continue };
            let (table, count, entry) = (le64(&head, 72), le32(&head, 80).min(128), le32(&head, 84));
            if !(128..=4096).contains(&entry) {
                return;
            }
            let Some(at) = table.checked_mul(block) else { return };
            let Some(raw) = self.bytes(at, (count * entry) as usize) else { return };
            self.add(at, count * entry);
            for e in raw.chunks_exact(entry as usize).filter(|e| e[..16] != [0; 16]) {
                let (first, last) = (le64(e, 32), le64(e, 40));
                self.partition(first, last.saturating_sub(first).saturating_add(1), block, found);
            }
            return;
        }
    }
    fn file_system(&mut self, part: ByteRange) {
        let Some(head) = self.bytes(part.start, 4096) else { return };
        if le16(&head, 1024 + 56) == 0xef53 {
            self.ext(part, &head[1024..2048]);
        } else if head.starts_with(b"XFSB") {
            self.xfs(part, &head);
        }
    }

    /// Superblock and group descriptors, bitmaps and the used part of the inode tables, journal.
    fn ext(&mut self, part: ByteRange, sb: &[u8]) {
        let log = le32(sb, 24);
        if log > 6 {
            return;
        }
        let block = 1024u64 << log;
        let incompat = le32(sb, 96);
        let wide = incompat & 0x80 != 0;
        let desc = if wide { le16(sb, 254).clamp(32, 1024) } else { 32 };
        let blocks = le32(sb, 4) | if wide { le32(sb, 0x150) << 32 } else { 0 };
        let (per_group, inodes) = (le32(sb, 32), le32(sb, 40));
        let inode = if le32(sb, 76) == 0 { 128 } else { le16(sb, 88) };
        if per_group == 0 || inode < 128 || incompat & 0x10 != 0 {
            return; // Nothing sensible, or descriptors spread over the disk (meta_bg): the superblock's 64 KiB will do.
        }
        let groups = blocks.saturating_sub(le32(sb, 20)).div_ceil(per_group);
        let table = part.start + block * (le32(sb, 20) + 1);
        self.add(part.start, 4096);
        self.add(table, groups.saturating_mul(desc));
        let mut inode_table = None;
        for first in (0..groups).step_by(64) {
            let n = (groups - first).min(64);
            let Some(raw) = self.bytes(table + first * desc, (n * desc) as usize) else { break };
            for d in raw.chunks_exact(desc as usize) {
                let high = |at| if wide && desc >= 64 { le32(d, at) << 32 } else { 0 };
                let place = |low: usize, up: usize| {
                    part.start.saturating_add((le32(d, low) | high(up)).saturating_mul(block))
                };
                let unused = if le16(d, 18) & 1 != 0 { inodes } else { le16(d, 28) };
                inode_table.get_or_insert(place(8, 0x28));
                self.add(place(0, 0x20), block);
                self.add(place(4, 0x24), block);
                self.add(place(8, 0x28), inodes.saturating_sub(unused).min(1 << 24) * inode);
            }
            if self.ranges.len() >= RANGES_MAX {
                break;
            }
        }
        let journal = le32(sb, 224);
        if let Some(table) = inode_table.filter(|_| (1..=64).contains(&journal)) {
            self.ext_file(part, table.saturating_add((journal - 1) * inode), block);
        }
    }
    /// The extents of a small file, one level deep: the journal.
    fn ext_file(&mut self, part: ByteRange, inode: u64, block: u64) {
        let Some(raw) = self.bytes(inode, 128) else { return };
        let map = &raw[40..100];
        if le16(map, 0) != 0xf30a || le16(map, 6) != 0 {
            return;
        }
        for e in map[12..].chunks_exact(12).take(le16(map, 2).min(4) as usize) {
            let at = (le32(e, 8) | le16(e, 6) << 32).saturating_mul(block);
            self.add(part.start.saturating_add(at), (le16(e, 4) & 0x7fff) * block);
        }
    }

    /// The headers of every allocation group with the roots of their trees, the log, the root directory's inodes.
    fn xfs(&mut self, part: ByteRange, sb: &[u8]) {
        let (block, ag_blocks, ags) = (be32(sb, 4), be32(sb, 84), be32(sb, 88));
        if !block.is_power_of_two() || !(512..=65_536).contains(&block) || ag_blocks == 0 {
            return;
        }
        let log2 = sb[124];
        let place = |fs_block: u64| {
            let (ag, at) =
                (fs_block.checked_shr(u32::from(log2)).unwrap_or(0), fs_block & ((1 << (log2 & 31)) - 1));
            part.start.saturating_add(ag.saturating_mul(ag_blocks).saturating_add(at).saturating_mul(block))
        };
        self.add(place(be64(sb, 48)), be32(sb, 96).saturating_mul(block));
        let root_inode = be64(sb, 56);
        self.add(place(root_inode.checked_shr(u32::from(sb[123])).unwrap_or(0)), 64 << 10);
        for ag in 0..ags.min(RANGES_MAX as u64) {
            let start = part.start.saturating_add(ag.saturating_mul(ag_blocks).saturating_mul(block));
            if start >= self.size {
                break;
            }
            self.add(start, 64 << 10);
        }
    }

    fn joined(mut self) -> Vec<ByteRange> {
        self.ranges.sort_unstable();
        let mut out: Vec<ByteRange> = Vec::with_capacity(self.ranges.len());
        for r in self.ranges {
            match out.last_mut() {
                Some(last) if r.start <= last.end() => last.len = last.end().max(r.end()) - last.start,
                _ => out.push(r),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(disk: &[u8]) -> Vec<ByteRange> {
        metadata_ranges(disk.len() as u64, &mut |at, buf| {
            buf.copy_from_slice(&disk[at as usize..at as usize + buf.len()]);
            true
        })
    }
    fn has(ranges: &[ByteRange], start: u64, len: u64) -> bool {
        ranges.iter().any(|r| r.covers(&ByteRange::new(start, len)))
    }
    fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }
    const MIB: usize = 1 << 20;

    /// A tiny ext4: 4 KiB blocks, two groups, inode tables at blocks 100 and 200, journal inode 8 with one extent.
    fn ext4(disk: &mut [u8], at: usize) {
        let sb = at + 1024;
        put(disk, sb + 4, &4096u32.to_le_bytes());
        put(disk, sb + 24, &2u32.to_le_bytes());
        put(disk, sb + 32, &2048u32.to_le_bytes());
        put(disk, sb + 40, &256u32.to_le_bytes());
        put(disk, sb + 56, &[0x53, 0xef]);
        put(disk, sb + 76, &1u32.to_le_bytes());
        put(disk, sb + 88, &256u16.to_le_bytes());
        put(disk, sb + 224, &8u32.to_le_bytes());
        for (g, table) in [(0, 100u32), (1, 200)] {
            let d = at + 4096 + 32 * g;
            put(disk, d, &(50 + g as u32).to_le_bytes());
            put(disk, d + 4, &(60 + g as u32).to_le_bytes());
            put(disk, d + 8, &table.to_le_bytes());
            put(disk, d + 28, &(200u16).to_le_bytes());
        }
        let inode = at + 100 * 4096 + 7 * 256;
        put(disk, inode + 40, &[0x0a, 0xf3, 1, 0, 4, 0, 0, 0]);
        put(disk, inode + 52 + 4, &64u16.to_le_bytes());
        put(disk, inode + 52 + 8, &300u32.to_le_bytes());
    }

    #[test]
    fn ext4_without_partitions_and_in_a_gpt_partition() {
        let mut disk = vec![0; 32 * MIB];
        ext4(&mut disk, 0);
        let r = scan(&disk);
        assert!(has(&r, 100 * 4096, 56 * 256) && has(&r, 200 * 4096, 56 * 256), "used inodes: {r:?}");
        assert!(has(&r, 50 * 4096, 8192) && has(&r, 60 * 4096, 8192), "bitmaps");
        assert!(has(&r, 300 * 4096, 64 * 4096), "journal");
        assert!(!has(&r, 100 * 4096, 257 * 256), "unused inodes can wait");

        let mut disk = vec![0; 32 * MIB];
        put(&mut disk, 446 + 4, &[0xee]);
        put(&mut disk, 510, &[0x55, 0xaa]);
        put(&mut disk, 512, b"EFI PART");
        put(&mut disk, 512 + 72, &2u64.to_le_bytes());
        put(&mut disk, 512 + 80, &128u32.to_le_bytes());
        put(&mut disk, 512 + 84, &128u32.to_le_bytes());
        put(&mut disk, 1024, &[1; 16]);
        put(&mut disk, 1024 + 32, &2048u64.to_le_bytes());
        put(&mut disk, 1024 + 40, &50_000u64.to_le_bytes());
        ext4(&mut disk, MIB);
        let r = scan(&disk);
        assert!(has(&r, (MIB + 300 * 4096) as u64, 64 * 4096), "{r:?}");
    }

    #[test]
    fn xfs_in_an_extended_partition() {
        let mut disk = vec![0; 32 * MIB];
        put(&mut disk, 510, &[0x55, 0xaa]);
        put(&mut disk, 446 + 4, &[5, 0, 0, 0]);
        put(&mut disk, 446 + 8, &[0, 8, 0, 0, 0, 0xf0, 0, 0]);
        put(&mut disk, MIB + 510, &[0x55, 0xaa]);
        put(&mut disk, MIB + 446 + 4, &[0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0xe0, 0, 0]);
        let at = 2 * MIB;
        put(&mut disk, at, b"XFSB");
        put(&mut disk, at + 4, &4096u32.to_be_bytes());
        put(&mut disk, at + 48, &(1u64 << 10 | 20).to_be_bytes());
        put(&mut disk, at + 84, &1024u32.to_be_bytes());
        put(&mut disk, at + 88, &4u32.to_be_bytes());
        put(&mut disk, at + 96, &16u32.to_be_bytes());
        disk[at + 124] = 10;
        let r = scan(&disk);
        for ag in 0..4 {
            assert!(has(&r, (at + ag * 4 * MIB) as u64, 64 << 10), "group {ag}: {r:?}");
        }
        assert!(has(&r, (at + 4 * MIB + 20 * 4096) as u64, 16 * 4096), "the log");
    }

    #[test]
    fn a_forged_superblock_does_not_make_it_run_long() {
        let mut head = vec![0u8; 8192];
        put(&mut head, 1024 + 4, &u32::MAX.to_le_bytes());
        put(&mut head, 1024 + 32, &1u32.to_le_bytes());
        put(&mut head, 1024 + 40, &16u32.to_le_bytes());
        put(&mut head, 1024 + 56, &[0x53, 0xef]);
        let mut reads = 0;
        let found = metadata_ranges(1 << 40, &mut |at, buf| {
            reads += 1;
            // Group descriptors that point beyond the disk add nothing, so only the number of reads is a bound.
            buf.fill(0xff);
            let n = buf.len().min(head.len().saturating_sub(at as usize));
            if at < 2048 {
                buf[..n].copy_from_slice(&head[at as usize..at as usize + n]);
            }
            true
        });
        assert!(reads <= READS_MAX && found.len() <= RANGES_MAX, "{reads} reads");
    }

    #[test]
    fn an_unreadable_disk_has_two_ends() {
        let ends = metadata_ranges(1 << 40, &mut |_, _| false);
        assert_eq!(ends, [ByteRange::new(0, 65_536), ByteRange::new((1 << 40) - 65_536, 65_536)]);
        assert_eq!(metadata_ranges(512, &mut |_, _| false), [ByteRange::new(0, 512)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn damage_never_panics_runs_long_or_points_outside(
            kind in 0u8..3, damage in prop::collection::vec((0usize..6000, any::<u8>()), 0..60), size in 8192usize..40_000,
        ) {
            let mut disk = vec![0; 8 * MIB];
            if kind == 0 {
                ext4(&mut disk, 0);
            } else if kind == 1 {
                put(&mut disk, 0, b"XFSB");
            } else {
                put(&mut disk, 510, &[0x55, 0xaa]);
                put(&mut disk, 512, b"EFI PART");
            }
            for (at, byte) in damage {
                disk[at] = byte;
            }
            let size = (size / 512 * 512) as u64;
            let mut reads = 0;
            let found = metadata_ranges(size, &mut |at, buf| {
                reads += 1;
                buf.copy_from_slice(&disk[at as usize..at as usize + buf.len()]);
                true
            });
            prop_assert!(reads <= READS_MAX && found.len() <= RANGES_MAX);
            prop_assert!(found.iter().all(|r| r.len > 0 && r.end() <= size));
            prop_assert!(found.windows(2).all(|w| w[0].end() < w[1].start));
        }
    }
}
