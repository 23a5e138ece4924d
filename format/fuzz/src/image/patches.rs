//! What makes a sound image a hostile one: changes to its structures, each of a few bytes in the input.

use super::Input;
use super::store::Store;

/// An input has at most so many patches.
const MOST_PATCHES: u8 = 12;
/// Larger files say nothing new.
const LONGEST: u64 = 12 << 20;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Fields of the header: offset and bytes.
const FIELDS: [(u64, u64); 24] = [
    (0, 4),
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 4),
    (100, 4),
    (104, 1),
    (105, 1),
    (106, 2),
    (108, 4),
    (112, 4),
    (116, 4),
];

/// Where the structures of an image lie, as its own header has them.
struct Layout<'a> {
    store: &'a Store,
    cluster_bits: u64,
    l1: u64,
    l1_size: u64,
    refcount_table: u64,
    snapshots: u64,
    extended: bool,
}

impl<'a> Layout<'a> {
    fn of(store: &'a Store) -> Self {
        let number = |at, len| number(&store.get(at, len));
        let is_new = number(4, 4) >= 3;
        Layout {
            store,
            cluster_bits: number(20, 4).clamp(9, 21),
            l1: number(40, 8),
            l1_size: number(36, 4),
            refcount_table: number(48, 8),
            snapshots: number(64, 8),
            extended: is_new && number(72, 8) & 16 != 0,
        }
    }

    fn word(&self, at: u64) -> u64 {
        number(&self.store.get(at, 8))
    }

    /// The L2 table with this number among those that there are.
    fn l2_table(&self, count: u8) -> u64 {
        let entries =
            (0..self.l1_size.min(512)).map(|index| self.word(self.l1.saturating_add(index * 8)) & OFFSET);
        let tables: Vec<u64> = entries.filter(|offset| *offset != 0).collect();
        tables.get(usize::from(count) % tables.len().max(1)).copied().unwrap_or(0)
    }

    fn block(&self, count: u8) -> u64 {
        self.word(self.refcount_table.saturating_add(u64::from(count % 4) * 8)) & OFFSET
    }

    /// A place, and how many bytes there are one number.
    fn place(&self, input: &mut Input<'_>) -> (u64, u64) {
        let (kind, a, b) = (input.byte(), input.byte(), input.byte());
        let (first, second) = (u64::from(a), u64::from(b));
        let entry = if self.extended { 16 } else { 8 };
        match kind % 12 {
            0 | 1 => FIELDS[usize::from(a) % FIELDS.len()],
            2 => (first << 8 | second, 1 << (kind / 12 % 4)),
            3 => (self.l1.saturating_add(first % self.l1_size.max(1) * 8), 8),
            4 | 5 => (self.l2_table(a).saturating_add(second * entry), 8),
            6 => (self.l2_table(a).saturating_add(second * entry + entry - 8), 8),
            7 => (self.refcount_table.saturating_add(first * 8), 8),
            8 => (self.block(a).saturating_add(second), 1),
            9 => (self.block(a).saturating_add(second * 2), 2),
            10 => (self.snapshots.saturating_add(second), 1 << (a % 4)),
            _ => ((first << 8 | second) << self.cluster_bits >> 5, 1),
        }
    }

    /// A number that may stand at a place where `old` stands.
    fn value(&self, input: &mut Input<'_>, old: u64) -> u64 {
        let kind = input.byte();
        match kind % 10 {
            0 => u64::from(input.byte()),
            1 => input.number(),
            2 => old.wrapping_add(input.byte() as i8 as u64),
            3 => old ^ 1 << (input.byte() % 64),
            4 => old.wrapping_add((input.byte() as i8 as u64) << self.cluster_bits),
            5 => self.store.length().wrapping_add((input.byte() as i8 as u64) << 9),
            6 => (1_u64 << (input.byte() % 64)).wrapping_sub(u64::from(kind / 10 % 2)),
            7 => {
                let structures =
                    [self.l1, self.refcount_table, self.l2_table(kind / 10), self.block(0), self.snapshots];
                let flags = [0, 1 << 63, 1, 1 << 62];
                let byte = usize::from(input.byte());
                structures[byte % structures.len()] | flags[byte / 8 % flags.len()]
            }
            8 => {
                let cluster = u64::from(input.byte()) << self.cluster_bits;
                cluster | [1 << 63, 0, 1 << 63 | 1, 1 << 62][usize::from(kind / 10) % 4]
            }
            _ => 0,
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Applies the patches that an input has next; how many there were.
pub fn apply(input: &mut Input<'_>, store: &Store) -> u8 {
    let patches = input.byte() % (MOST_PATCHES + 1);
    for _ in 0..patches {
        patch(input, store);
    }
    patches
}

fn patch(input: &mut Input<'_>, store: &Store) {
    let layout = Layout::of(store);
    match input.byte() {
        0..=223 => {
            let (at, len) = layout.place(input);
            let old = number(&store.get(at, len));
            let value = layout.value(input, old);
            write(store, at, &value.to_be_bytes()[8 - len as usize..]);
        }
        224..=231 => store.cut(input.number() % (store.length() + 1)),
        232..=235 => {
            store.cut((store.length() + (u64::from(input.byte()) << layout.cluster_bits)).min(LONGEST))
        }
        236..=245 => insert_extension(input, store),
        _ => {
            let (from, to) = (layout.place(input).0, layout.place(input).0);
            write(store, to, &store.get(from, 16));
        }
    }
}

/// Writes what lies within the file.
fn write(store: &Store, at: u64, bytes: &[u8]) {
    let room = store.length().saturating_sub(at).min(bytes.len() as u64);
    if room > 0 {
        store.put(at, &bytes[..room as usize]);
    }
}

/// Puts a header extension before the others, which make room for it.
fn insert_extension(input: &mut Input<'_>, store: &Store) {
    const KINDS: [u32; 9] = [
        0x3139_3834,
        0x564d_4942,
        0xe279_2aca,
        0x6803_f857,
        0x2385_2875,
        0x0537_be77,
        0x4441_5441,
        0x1234_5678,
        0,
    ];
    let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
    let data = input.bytes(64);
    let length = match input.byte() {
        255 => u32::MAX,
        254 => 1 << 16,
        _ => data.len() as u32,
    };
    let start = if number(&store.get(4, 4)) >= 3 { number(&store.get(100, 4)).min(4096) } else { 72 };
    let mut extension = [kind.to_be_bytes(), length.to_be_bytes()].concat();
    extension.extend(&data);
    extension.resize(extension.len().next_multiple_of(8), 0);
    let cluster = 1 << number(&store.get(20, 4)).clamp(9, 21);
    let rest = store.get(start, 512_u64.min(cluster).saturating_sub(start + extension.len() as u64));
    let name = number(&store.get(8, 8));
    if name >= start {
        write(store, 8, &name.saturating_add(extension.len() as u64).to_be_bytes());
    }
    write(store, start, &[extension, rest].concat());
}
