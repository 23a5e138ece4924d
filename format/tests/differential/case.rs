//! One case: an image, what its disk must hold, and the turns that the two sides take.

use crate::axes::{Backing, Shape};
use crate::common::{Random, qemu};
use crate::model::Model;
use crate::ops::{Noise, Op, Side};
use crate::{bitmaps, ours, stock};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const NAME: &str = "image";

/// How often something was part of a case.
pub type Counts = BTreeMap<String, u64>;

struct Snapshot {
    name: String,
    content: Model,
}

pub struct Case<'a> {
    seed: u64,
    random: Random,
    noise: &'a Noise,
    folder: TempDir,
    shape: Shape,
    model: Model,
    snapshots: Vec<Snapshot>,
    snapshots_made: u32,
    /// What was done, for whoever has to find out why it went wrong.
    log: Vec<String>,
    counts: Counts,
}

/// A folder in memory, if the system has one for everybody.
pub fn new_folder() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    let made = tempfile::Builder::new().prefix("vmicache-differential-").tempdir_in(in_memory);
    made.or_else(|_| tempfile::tempdir()).expect("a folder can be made")
}

impl<'a> Case<'a> {
    /// Makes the images.
    pub fn new(seed: u64, noise: &'a Noise) -> Self {
        let mut random = Random::new(seed);
        let shape = Shape::random(&mut random);
        let mut case = Case {
            seed,
            random,
            noise,
            folder: new_folder(),
            model: Model::new(vec![], shape.cluster_size, true),
            shape,
            snapshots: vec![],
            snapshots_made: 0,
            log: vec![],
            counts: Counts::new(),
        };
        for name in case.shape.names() {
            case.count(&name);
        }
        let mut content = match case.shape.backing {
            Some(backing) => case.make_base(backing),
            None => vec![],
        };
        content.resize(case.shape.size as usize, 0);
        case.model = Model::new(content, case.shape.cluster_size, case.shape.preallocation == "off");
        let by_ours = ours::can_create(&case.shape) && case.random.chance(0.6);
        case.note(format!("{} makes {:?}", if by_ours { "ours" } else { "stock" }, case.shape));
        match by_ours {
            true => ours::create(case.folder.path(), NAME, &case.shape),
            false => stock::create(case.folder.path(), NAME, &case.shape),
        }
        case
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    fn note(&mut self, line: String) {
        self.log.push(line);
    }

    fn count(&mut self, name: &str) {
        *self.counts.entry(name.to_owned()).or_default() += 1;
    }

    /// A base image with some data in it.
    fn make_base(&mut self, backing: Backing) -> Vec<u8> {
        let shape = Shape {
            size: backing.size,
            cluster_size: backing.cluster_size,
            version: self.random.pick(&[2, 3]),
            refcount_bits: 16,
            extended_l2: false,
            compression: crate::axes::Compression::Zlib,
            has_compressed: false,
            lazy_refcounts: false,
            data_file: None,
            backing: None,
            preallocation: "off",
            has_snapshots: false,
            has_bitmap: false,
        };
        let mut model = Model::new(vec![0; backing.size as usize], backing.cluster_size, true);
        let ops: Vec<Op> = (0..self.random.within(1..8))
            .map(|_| Op::random(&mut self.random, self.noise, &shape, &model, Side::Ours))
            .filter(|op| matches!(op, Op::Write(..) | Op::WriteZeroes { .. }))
            .collect();
        if backing.is_raw {
            ops.iter().for_each(|op| op.apply(self.noise, &mut model, Side::Ours));
            // A raw base ends anywhere.
            let mut content = model.bytes;
            content.truncate(content.len() - self.random.below(512) as usize);
            std::fs::write(self.folder.path().join("base"), &content).expect("the base can be written");
            return content;
        }
        ours::create(self.folder.path(), "base", &shape);
        let opened = ours::Opened::new(&mut self.random, &self.folder.path().join("base"), true);
        ops.iter().for_each(|op| opened.perform(std::slice::from_ref(op), self.noise, &mut model));
        opened.close();
        model.bytes
    }

    /// Two to four turns, by both sides.
    pub fn run(&mut self) -> Counts {
        let first_is_stock = self.random.chance(0.6);
        for turn in 0..self.random.pick(&[2, 2, 2, 3, 3, 4]) {
            if self.shape.has_snapshots {
                self.change_snapshots();
            }
            if self.shape.has_bitmap && turn == 0 {
                self.note("stock: bitmap --add".into());
                stock::add_bitmap(self.folder.path(), NAME);
            }
            match first_is_stock == (turn % 2 == 0) {
                true => self.stock_turn(),
                false => self.our_turn(),
            }
        }
        self.check_snapshots();
        std::mem::take(&mut self.counts)
    }

    fn next_op(&mut self, side: Side) -> Op {
        let op = Op::random(&mut self.random, self.noise, &self.shape, &self.model, side);
        self.count(op.name());
        let text = op.command(self.noise, &self.model).unwrap_or("reopen".into());
        self.note(format!("{side}: {text}"));
        op
    }

    /// Stock writes, ours reads.
    fn stock_turn(&mut self) {
        let mut commands = vec![stock::open_command(NAME)];
        self.model.lost_compressed = false;
        for _ in 0..self.random.within(3..20) {
            let op = self.next_op(Side::Stock);
            match op.command(self.noise, &self.model) {
                Some(command) => commands.push(command),
                None => commands.extend(["close".into(), stock::open_command(NAME)]),
            }
            op.apply(self.noise, &mut self.model, Side::Stock);
        }
        stock::run(self.folder.path(), &commands);
        self.note("ours: read all".into());
        let path = self.path();
        ours::settle(&mut self.random, &path, &mut self.model, "ours reads after stock wrote");
    }

    /// Ours writes, stock checks and reads.
    fn our_turn(&mut self) {
        let path = self.path();
        let mut opened = ours::Opened::new(&mut self.random, &path, true);
        let mut batch: Vec<Op> = vec![];
        for _ in 0..self.random.within(3..20) {
            let op = self.next_op(Side::Ours);
            // What does not collide is in flight together.
            if batch.len() == 4 || batch.iter().any(|other| other.collides_with(&op)) {
                self.perform(&opened, &mut batch);
            }
            match op {
                Op::Reopen => {
                    self.perform(&opened, &mut batch);
                    opened.close();
                    opened = ours::Opened::new(&mut self.random, &path, true);
                }
                Op::Resize(_) => {
                    self.perform(&opened, &mut batch);
                    // What comes next depends on the size.
                    self.perform(&opened, &mut vec![op]);
                }
                op => batch.push(op),
            }
        }
        self.perform(&opened, &mut batch);
        opened.close();
        self.note("stock: check, convert".into());
        self.check();
        stock::settle(self.folder.path(), NAME, &mut self.model, "stock reads after ours wrote");
        ours::settle(&mut self.random, &path, &mut self.model, "ours reads after ours wrote");
    }

    /// Stock finds no error and no leak in what ours wrote. A writer that keeps up no bitmaps says so; their clusters
    /// are then in nobody's use.
    fn check(&mut self) {
        let folder = self.folder.path();
        if !self.shape.has_bitmap {
            return qemu::check(folder, NAME);
        }
        let image = std::fs::read(folder.join(NAME)).expect("there is an image");
        assert!(!bitmaps::are_vouched_for(&image), "ours wrote, and the bitmaps look as if they knew of it");
        let (mut leaks, mut clusters) = (qemu::leaks(folder, NAME), bitmaps::clusters(&image));
        leaks.sort_unstable();
        clusters.sort_unstable();
        assert_eq!(leaks, clusters, "the clusters that leaked, and those of the bitmaps");
        qemu::img(folder, &["check", "-q", "-r", "leaks", "-f", "qcow2", NAME]);
        // The tool removes what it knows to be of no use when it writes again.
        self.shape.has_bitmap = false;
    }

    fn perform(&mut self, opened: &ours::Opened, batch: &mut Vec<Op>) {
        if !batch.is_empty() {
            self.note(format!("ours: {} at once", batch.len()));
            opened.perform(batch, self.noise, &mut self.model);
            batch.clear();
        }
    }

    /// Stock makes, applies or deletes a snapshot.
    fn change_snapshots(&mut self) {
        let folder = self.folder.path();
        let full = self.snapshots.len() >= self.shape.most_snapshots();
        let some = self.random.below(self.snapshots.len().max(1) as u64) as usize;
        match self.random.below(10) {
            0 if !self.snapshots.is_empty() => {
                let Snapshot { name, content } = &self.snapshots[some];
                self.log.push(format!("stock: snapshot -a {name}"));
                stock::snapshot(folder, "-a", name, NAME);
                self.model = content.clone();
                self.model.untouched.fill(false);
            }
            1 if !self.snapshots.is_empty() => {
                let Snapshot { name, .. } = self.snapshots.remove(some);
                self.log.push(format!("stock: snapshot -d {name}"));
                stock::snapshot(folder, "-d", &name, NAME);
            }
            _ if !full => {
                let name = format!("snapshot{}", self.snapshots_made);
                self.snapshots_made += 1;
                self.log.push(format!("stock: snapshot -c {name}"));
                stock::snapshot(folder, "-c", &name, NAME);
                self.snapshots.push(Snapshot { name, content: self.model.clone() });
            }
            _ => {}
        }
    }

    /// Every snapshot still holds what the disk held; one of them can be applied, and one deleted.
    fn check_snapshots(&mut self) {
        let folder = self.folder.path();
        for Snapshot { name, content } in &self.snapshots {
            self.log.push(format!("stock: read {name}"));
            let found = stock::snapshot_content(folder, NAME, name);
            // The tool reads as much of a snapshot as the disk has now.
            let common = found.len().min(content.bytes.len());
            assert!(common == content.bytes.len() || found.len() == self.model.bytes.len());
            content.compare(0, &found[..common], &format!("{name} at the end"));
        }
        let Some(last) = self.snapshots.last_mut() else { return };
        self.log.push(format!("stock: apply {} on a copy, check it", last.name));
        std::fs::copy(folder.join(NAME), folder.join("copy")).expect("an image can be copied");
        stock::snapshot(folder, "-a", &last.name, "copy");
        qemu::check(folder, "copy");
        stock::settle(folder, "copy", &mut last.content, "stock reads the snapshot that was applied");
        ours::settle(
            &mut self.random,
            &folder.join("copy"),
            &mut last.content,
            "ours reads the snapshot that was applied",
        );
        self.log.push(format!("stock: delete {} from it, check it", last.name));
        stock::snapshot(folder, "-d", &last.name, "copy");
        qemu::check(folder, "copy");
    }
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEED={} fails:\n    {}", self.seed, self.log.join("\n    "));
            if std::env::var_os("SEED").is_some() {
                self.folder.disable_cleanup(true);
                eprintln!("its files are in {}", self.folder.path().display());
            }
        }
    }
}
