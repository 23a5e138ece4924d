//! Where the persistent bitmaps of an image lie, read from its bytes.

fn number(bytes: &[u8], at: u64, width: u64) -> u64 {
    bytes[at as usize..(at + width) as usize].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Whether the image says that its bitmaps are up to date.
pub fn are_vouched_for(image: &[u8]) -> bool {
    number(image, 4, 4) == 3 && number(image, 88, 8) & 1 != 0
}

/// Offset and length of the bitmap directory.
fn directory(image: &[u8]) -> Option<(u64, u64)> {
    const BITMAPS: u64 = 0x2385_2875;
    let mut at = number(image, 100, 4);
    loop {
        match number(image, at, 4) {
            0 => return None,
            BITMAPS => return Some((number(image, at + 24, 8), number(image, at + 16, 8))),
            _ => at += 8 + number(image, at + 4, 4).next_multiple_of(8),
        }
    }
}

/// The numbers of the clusters of the bitmaps' directory, tables and data.
pub fn clusters(image: &[u8]) -> Vec<u64> {
    let cluster_bits = number(image, 20, 4);
    let numbers = |start: u64, bytes: u64| start >> cluster_bits..(start + bytes).div_ceil(1 << cluster_bits);
    let Some((start, bytes)) = directory(image) else { return vec![] };
    let mut clusters: Vec<u64> = numbers(start, bytes).collect();
    let mut at = start;
    while at < start + bytes {
        let (table, entries) = (number(image, at, 8), number(image, at + 8, 4));
        clusters.extend(numbers(table, entries * 8));
        let data = (0..entries).map(|entry| number(image, table + entry * 8, 8) & 0x00ff_ffff_ffff_fe00);
        clusters.extend(data.filter(|data| *data != 0).map(|data| data >> cluster_bits));
        let (name, extra) = (number(image, at + 18, 2), number(image, at + 20, 4));
        at += (24 + name + extra).next_multiple_of(8);
    }
    clusters
}
