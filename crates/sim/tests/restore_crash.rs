//! Goal: invariants 1, 3, 7 and 12 of a restoring set over random histories and crashes at any I/O.
//! Method: a seed makes a history; the machine dies at some operation of any port (in the middle of a write, too), by kill
//! or power cut; it is opened again, perhaps dies again while opening, every block is compared with the model, and the
//! history goes on for a few lives. In the end everything is restored, the log emptied, and compared once more.

use rekindle_io::Kind;
use rekindle_io::fault::Crash;
use rekindle_sim::rng::Rng;
use rekindle_sim::world::{Copies, End, Shape, World};

fn live(world: &mut World, rng: &mut Rng, steps: u64) -> Result<(), End> {
    world.open()?;
    for _ in 0..steps {
        world.step(rng)?;
    }
    Ok(())
}

fn run(seed: u64, shape: Shape) -> Result<World, String> {
    let mut rng = Rng::new(seed);
    let mut world = World::new(shape, seed);
    let lives = 1 + rng.below(4);
    for life in 0..lives {
        let reach = if rng.one_in(3) { 30 } else { 400 };
        world.plan.die_within(rng.below(reach), rng.below(3) * 400);
        let steps = 20 + rng.below(120);
        match live(&mut world, &mut rng, steps) {
            Ok(()) | Err(End::Died) => {}
            Err(End::Broken(what)) => return Err(format!("seed {seed}, life {life}: {what}")),
        }
        let crash = if rng.one_in(2) { Crash::Kill } else { Crash::Power { seed: rng.draw() } };
        world.crash(crash);
    }
    match world.open().and_then(|()| world.complete()) {
        Ok(()) => Ok(world),
        Err(e) => Err(format!("seed {seed}, in the end: {e:?}")),
    }
}

fn check(seeds: std::ops::Range<u64>, shape: Shape) {
    let (mut answered, mut late, mut backups) = (0, 0, 0);
    for seed in seeds {
        let world = run(seed, shape).unwrap_or_else(|e| panic!("{e}"));
        answered += world.answered;
        late += world.late;
        backups += world.backups.0;
    }
    assert!(backups > 2, "backups while restoring: {backups}");
    assert!(answered > 1000 && late > 20, "the histories do too little: {answered} answered, {late} late");
}

/// `REKINDLE_SIM_SEEDS=from..to` explores others.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("REKINDLE_SIM_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn onto_a_fresh_disk() {
    check(seeds(0..30), Shape::default());
}

#[test]
fn onto_a_used_disk() {
    check(seeds(1000..1025), Shape { used: true, ..Shape::default() });
}

/// One short history, and a power cut at every single operation of it, most in the midst of a write.
fn at_every_operation(seed: u64, used: bool) {
    let shape = Shape { size: (2 << 20) + (14 << 14), used, ..Shape::default() };
    let history = |dies: Option<u64>| {
        let mut world = World::new(shape, seed);
        if let Some(k) = dies {
            world.plan.die_within(k, k % 4 * 300);
        }
        let mut rng = Rng::new(seed);
        let done = live(&mut world, &mut rng, 12).and_then(|()| {
            // Settled, written again, settled again: what is durable is replaced, not made.
            for _ in 0..3 {
                world.settle()?;
                (0..10).try_for_each(|_| world.step(&mut rng))?;
            }
            world.settle()
        });
        (world, done)
    };
    let (world, done) = history(None);
    assert!(done.is_ok(), "seed {seed}: {done:?}");
    let operations = world.plan.count();
    assert!(operations > 60, "{operations}");
    for k in 0..operations {
        let (mut world, done) = history(Some(k));
        if let Err(End::Broken(what)) = done {
            panic!("seed {seed}, crash at {k}: {what}");
        }
        world.crash(Crash::Power { seed: k });
        world.open().unwrap_or_else(|e| panic!("seed {seed}, crash at {k} of {operations}: {e:?}"));
    }
}

#[test]
fn a_power_cut_at_every_operation() {
    at_every_operation(5, false);
}

#[test]
fn a_power_cut_at_every_operation_onto_a_used_disk() {
    at_every_operation(6, true);
}

/// What a snapshot holds stays, or the next backup knows that it went: no flush came between the writes and the cut.
#[test]
fn a_power_cut_after_a_backup_takes_nothing_back_unseen() {
    for seed in seeds(9000..9012) {
        let mut rng = Rng::new(seed);
        let mut world = World::new(Shape { used: seed % 2 == 1, ..Shape::default() }, seed);
        let mut life = || {
            live(&mut world, &mut rng, 15)?;
            world.complete()?;
            for _ in 0..3 {
                world.write(&mut rng)?;
            }
            world.backup()?;
            world.crash(Crash::Power { seed });
            world.open().and_then(|()| world.complete())
        };
        life().unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
    }
}

/// A state that was copied aside before a backup, put back behind it, counts the same generation once more: what the
/// snapshot closed is no parent then, even where the copy is too young to be refused.
#[test]
fn a_generation_that_is_closed_twice_is_compared() {
    for seed in seeds(9100..9104) {
        let mut rng = Rng::new(seed);
        let mut world = World::new(Shape::default(), seed);
        let mut life = || {
            live(&mut world, &mut rng, 15)?;
            world.complete()?;
            let copy = world.copy();
            world.backup()?;
            world.crash(Crash::Kill);
            world.swap_state(&copy);
            world.open()?;
            world.write_and_flush(&mut rng)?;
            // That backup may have failed: what it found out is not forgotten.
            world.backup()?;
            if seed % 2 == 0 {
                world.settle()?;
                world.crash(Crash::Power { seed });
                world.open()?;
            }
            world.backup()
        };
        life().unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
    }
}

/// A flush, write or other operation of some port fails once, anywhere; the process is killed and started again. A
/// destination that failed a flush may have lost all it got since the last good one: the log still has it.
fn faults(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut world = World::new(Shape { used: seed % 2 == 1, ..Shape::default() }, seed);
    for life in 0..3 {
        let kind = if rng.one_in(4) { Kind::Full } else { Kind::Failed };
        world.plan.fail_at(rng.below(150), kind);
        world.faulty = true;
        let steps = 60 + rng.below(100);
        match live(&mut world, &mut rng, steps) {
            Ok(()) | Err(End::Died) => {}
            Err(End::Broken(what)) => return Err(format!("seed {seed}, life {life}: {what}")),
        }
        let power = Crash::Power { seed: rng.draw() };
        match rng.below(3) {
            0 => world.crash(Crash::Kill),
            1 => world.crash_apart(Crash::Kill, power),
            _ => world.crash_apart(power, Crash::Kill),
        }
    }
    let end = world.open().and_then(|()| world.complete());
    end.map_err(|e| format!("seed {seed}, in the end: {e:?}"))
}

#[test]
fn any_operation_may_fail() {
    seeds(4000..4025).for_each(|s| faults(s).unwrap_or_else(|e| panic!("{e}")));
}

/// A crash anywhere in verification and hand-over: restoring before the record, live after it, nothing lost either way.
fn hand_over(seed: u64) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let mut world = World::new(Shape { used: seed % 2 == 1, ..Shape::default() }, seed);
    let broken = |what: &str, e: End| format!("seed {seed}, {what}: {e:?}");
    live(&mut world, &mut rng, 40).and_then(|()| world.complete()).map_err(|e| broken("before", e))?;
    world.plan.die_within(world.plan.count() + rng.below(320), rng.below(3) * 400);
    match world.hand_over(&mut rng) {
        Err(End::Broken(what)) => return Err(format!("seed {seed}, handing over: {what}")),
        Ok(()) | Err(End::Died) => {}
    }
    let crash = |rng: &mut Rng| if rng.one_in(2) { Crash::Kill } else { Crash::Power { seed: rng.draw() } };
    world.crash(crash(&mut rng));
    world.open().map_err(|e| broken("opening", e))?;
    let was_live = world.live;
    if !was_live {
        if seed % 4 < 2 {
            // And again, before anything is settled: the label that came back is durable, or its lack is known.
            world.crash(Crash::Power { seed });
            world.open().map_err(|e| broken("opening after a second crash", e))?;
        }
        let again = world.complete().and_then(|()| world.hand_over(&mut rng));
        again.map_err(|e| broken("again", e))?;
        world.crash(crash(&mut rng));
        world.open().map_err(|e| broken("opening again", e))?;
    }
    assert!(world.live);
    Ok(u64::from(was_live))
}

#[test]
fn hand_over_at_any_crash() {
    let range = seeds(2000..2025);
    let n = range.end - range.start;
    let live: u64 = range.map(|s| hand_over(s).unwrap_or_else(|e| panic!("{e}"))).sum();
    assert!(live > n / 20 && live < n - n / 20, "crashes before and behind the record: {live} of {n} behind");
}

#[test]
fn verification_mends_what_the_destination_lost() {
    let mut rng = Rng::new(7);
    let mut world = World::new(Shape::default(), 7);
    world.open().and_then(|()| world.complete()).expect("nothing goes wrong");
    world.spoil(0, 80);
    world.spoil(1, 66);
    world.hand_over(&mut rng).expect("mended, then handed over");
    assert_eq!(world.mended(), 2);
}

/// Some life, then copies of both halves, then the guest goes on and what it flushes is settled, after a restart or not.
fn pair_that_went_on(seed: u64) -> Result<(World, Copies), End> {
    let mut rng = Rng::new(seed);
    let mut world = World::new(Shape { used: seed % 2 == 1, ..Shape::default() }, seed);
    live(&mut world, &mut rng, rng_steps(seed))?;
    let old = world.copy();
    let restarted = seed.is_multiple_of(3);
    if restarted {
        world.crash(Crash::Kill);
        world.open()?;
    }
    world.write_and_flush(&mut rng)?;
    if !restarted || seed.is_multiple_of(4) {
        world.settle()?;
        world.write_and_flush(&mut rng)?;
    }
    let power = !restarted || seed.is_multiple_of(4);
    world.crash(if power { Crash::Power { seed } } else { Crash::Kill });
    Ok((world, old))
}

fn rng_steps(seed: u64) -> u64 {
    [0, 3, 20, 60][seed as usize % 4]
}

#[test]
fn an_older_copy_of_the_state_is_refused() {
    for seed in seeds(5000..5024) {
        let (mut world, old) = pair_that_went_on(seed).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        let newer = world.swap_state(&old);
        let why = world.refusal().unwrap_or_else(|| panic!("seed {seed}: writes that were flushed are gone"));
        assert!(why.contains("is an older copy: this destination went on without it"), "seed {seed}: {why}");
        // The cure: the newer one put back.
        world.swap_state(&newer);
        world.open().and_then(|()| world.complete()).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
    }
}

#[test]
fn an_older_copy_of_a_destination_is_refused_or_loses_nothing() {
    let mut refused = 0;
    for seed in seeds(6000..6024) {
        let (mut world, old) = pair_that_went_on(seed).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        let v = (seed / 2 % 2) as usize;
        let newer = world.swap_disk(v, &old, v);
        if let Some(why) = world.refusal() {
            refused += 1;
            assert!(why.contains("it is an older copy of the destination"), "seed {seed}: {why}");
            world.swap_disk(v, &newer, v);
        }
        world.open().and_then(|()| world.complete()).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
    }
    assert!(refused > 8, "{refused}");
}

#[test]
fn copies_that_both_went_on_do_not_mix() {
    for seed in 0..4 {
        let (mut world, old) = pair_that_went_on(7000 + seed * 4).expect("nothing goes wrong");
        world.open().expect("the newer pair");
        world.settle().expect("nothing goes wrong");
        let one = world.copy();
        world.crash(Crash::Kill);
        // The older pair is whole too, and goes its own way: opened and settled as often, and more.
        world.swap_state(&old);
        (0..2).for_each(|v| drop(world.swap_disk(v, &old, v)));
        let mut rng = Rng::new(seed);
        for _ in 0..6 {
            world.reopen_unchecked();
            world.settle().and_then(|()| world.write_and_flush(&mut rng)).expect("nothing goes wrong");
            world.crash(Crash::Kill);
            let other = world.swap_state(&one);
            assert!(
                world.refusal().is_some(),
                "seed {seed}: the state of one, the destinations of the other"
            );
            world.swap_state(&other);
        }
    }
}

#[test]
fn another_disk_is_refused_from_the_beginning_on() {
    for steps in [0, 40] {
        let mut rng = Rng::new(8);
        let mut world = World::new(Shape::default(), 8);
        live(&mut world, &mut rng, steps).expect("nothing goes wrong");
        world.crash(Crash::Power { seed: 1 });
        let ours = world.copy();
        let mut other = World::new(Shape::default(), 9);
        live(&mut other, &mut rng, steps).expect("nothing goes wrong");
        let theirs = other.copy();
        let mut refusal = |put: &dyn Fn(&mut World)| {
            put(&mut world);
            let why = world.refusal().expect("it would be overwritten");
            (0..2).for_each(|v| drop(world.swap_disk(v, &ours, v)));
            why
        };
        assert!(refusal(&|w| w.strange_disk(1, 0)).contains("does not carry the label of this restore"));
        assert!(refusal(&|w| w.strange_disk(0, 0xa5)).contains("does not carry the label of this restore"));
        assert!(refusal(&|w| drop(w.swap_disk(0, &theirs, 0))).contains("destination of another restore"));
        assert!(refusal(&|w| drop(w.swap_disk(0, &ours, 1))).contains("another volume of this set"));
        world.open().expect("its own disks");
    }
}
