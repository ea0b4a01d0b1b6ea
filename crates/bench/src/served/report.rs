//! Served I/O as text: targets first, then a table for each cell, the depths in one.

use super::cells::{ALL, COLD, Cell, LARGE_READ, LARGE_WRITE, READ, WRITE};
use super::pair::{self, Pair};
use super::{Found, Size};
use crate::rig::machine;
use crate::rig::report::{Goal, Table, goals};
use crate::rig::servers::Kind;
use crate::rig::svg::{self, Bar, Group};
use crate::stats::Rounds;
use std::fmt::Write as _;

/// What was measured, and of what.
pub struct Results<'a> {
    pub size: &'a Size,
    pub cells: &'a [Cell],
    pub found: &'a super::Results,
    pub pairs: &'a [Pair],
}

fn thousands(rate: &Rounds) -> Rounds {
    Rounds(rate.0.iter().map(|r| r / 1000.0).collect())
}

impl Results<'_> {
    fn at(&self, cell: usize, kind: Kind) -> Option<&Found> {
        self.found.get(&(cell, kind.name()))
    }

    /// Ours over a peer's in the cell of that name; empty when one is missing.
    fn over(&self, name: &str, peer: Kind, of: fn(&Found) -> &Rounds) -> Rounds {
        let cell = self.cells.iter().position(|c| c.name == name);
        let pair = cell.and_then(|c| Some((self.at(c, Kind::Rekindle)?, self.at(c, peer)?)));
        pair.map_or_else(Rounds::default, |(ours, theirs)| of(ours).ratio(of(theirs)))
    }

    fn targets(&self) -> String {
        let mut all = Vec::new();
        let mut least = |limit, cell: &str, client: &str, peer: Kind| {
            let name = format!("{cell} {client}");
            let what = format!("{name}: requests a second / {}", peer.name());
            all.push(Goal::at_least(limit, what, self.over(&name, peer, |f| &f.rate)));
        };
        let (file, no_sr) = (Kind::NbdkitFile, Kind::NbdkitFileNoSr);
        least(1.5, READ, "fio", file);
        least(1.1, READ, "fio", no_sr);
        least(1.2, WRITE, "fio", file);
        least(2.0, READ, "gen", file);
        least(1.5, READ, "gen", no_sr);
        least(1.1, LARGE_READ, "fio", file);
        least(1.0, LARGE_WRITE, "fio", file);
        least(1.0, COLD, "fio", file);
        for name in [READ, WRITE, LARGE_READ, LARGE_WRITE].map(|cell| format!("{cell} fio")) {
            let (cpu, p99) = (self.over(&name, file, |f| &f.cpu), self.over(&name, file, |f| &f.p99));
            all.push(Goal::at_most(1.0, format!("{name}: CPU of a request / {}", file.name()), cpu));
            all.push(Goal::at_most(1.0, format!("{name}: p99 / {}", file.name()), p99));
        }
        for pair in self.pairs {
            let what = format!("{} gen: {} on / off, ", pair.name, pair::NAME);
            all.push(Goal::at_least(0.97, format!("{what}requests a second"), pair.rate.clone()));
            all.push(Goal::at_most(1.03, format!("{what}CPU of a request"), pair.cpu.clone()));
        }
        goals(&all)
    }

    /// Targets, then all tables.
    pub fn text(&self) -> String {
        let peers = [("nbdkit", "--version"), ("qemu-nbd", "--version"), ("fio", "--version")];
        let versions: Vec<String> =
            peers.iter().map(|(program, flag)| machine::version(program, flag)).collect();
        let mut out = format!(
            "{}. {} rounds of {:.1} s a cell (depths other than 32x1: at most 0.4 s), {} MiB a file, written in 64 KiB pieces; \
             warm: flushed, dropped, read once in order; cold: flushed and dropped. Median [range]; ratios within a round; CPU \
             is the server's. Usage and tracking on / off: our server beside the same over the plain file, on one file, a round the \
             median of {} quartets of 60 ms slices (on, off, off, on; then off, on, on, off). `QD32x1`: 32 requests in flight on one connection.\n\n{}\n",
            versions.join(", "),
            self.size.rounds,
            self.size.time.as_secs_f64(),
            self.size.file >> 20,
            self.size.quartets,
            self.targets()
        );
        for (c, cell) in self.cells.iter().enumerate() {
            let _ = writeln!(out, "**{}**\n\n{}", cell.name, self.table(c));
        }
        out + "![served I/O](plots/served.svg)\n"
    }

    fn table(&self, cell: usize) -> String {
        let mut table =
            Table::new(&["server", "k requests/s", "/ nbdkit file", "/ --no-sr", "p99 us", "CPU us/request"]);
        for kind in ALL {
            let Some(f) = self.at(cell, kind) else { continue };
            let over = |kind| self.at(cell, kind).map_or("-".into(), |b| f.rate.ratio(&b.rate).show(2));
            table.row(vec![
                kind.name().into(),
                thousands(&f.rate).show(1),
                over(Kind::NbdkitFile),
                over(Kind::NbdkitFileNoSr),
                f.p99.show(0),
                f.cpu.show(1),
            ]);
        }
        table.markdown()
    }

    /// The main cells as bars.
    pub fn plot(&self) -> String {
        let main =
            |cell: &Cell| (cell.load.depth, cell.load.connections) == (32, 1) || cell.load.block > 4096;
        let cells = self.cells.iter().enumerate().filter(|(_, cell)| main(cell));
        let bar = |c: usize, kind: Kind| {
            let k = thousands(&self.at(c, kind)?.rate);
            Some(Bar { label: kind.name().into(), value: k.median(), range: k.range() })
        };
        let group = |(c, cell): (usize, &Cell)| Group {
            title: cell.name.clone(),
            bars: ALL.iter().filter_map(|kind| bar(c, *kind)).collect(),
        };
        svg::bars("Served I/O, thousand requests a second", "k/s", &cells.map(group).collect::<Vec<_>>())
    }
}
