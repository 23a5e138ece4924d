//! The inputs that fuzzing begins with.

use super::Target;
use super::templates;

/// All seeds of a target, with their files' names.
pub fn all(target: Target) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for number in 0..templates::COUNT as u8 {
        for setting in [0, 1 | 2 | 4, 8 | 1] {
            let script = script(target, number.wrapping_mul(7).wrapping_add(setting));
            seeds.push((
                format!("sound-{number:02}-{setting}"),
                [&[number, setting, 0][..], &script].concat(),
            ));
        }
        let script = script(target, number);
        for (name, patch) in patches() {
            let name = format!("{name}-{number:02}");
            if name.len() % 5 == usize::from(number) % 5 {
                seeds.push((name, [&[number, 1, 1][..], &patch, &script].concat()));
            }
        }
    }
    seeds.push(("raw-empty".into(), vec![super::RAW, 0, 0, 0, 0]));
    let header = &templates::template(0)[..512];
    seeds.push(("raw-header".into(), [&[super::RAW, 2, 0][..], header, &[0, 0, 0, 1, 0, 5, 0]].concat()));
    seeds
}

/// A change of each kind.
fn patches() -> [(&'static str, Vec<u8>); 13] {
    [
        ("size", vec![0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("l1-size", vec![0, 0, 7, 0, 2, 1]),
        ("backing-name", vec![0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 200]),
        ("corrupt", vec![0, 0, 13, 0, 3, 1]),
        ("dirty", vec![0, 0, 13, 0, 3, 0]),
        ("width", vec![0, 0, 16, 0, 0, 0]),
        ("l1", vec![0, 3, 0, 0, 4, 1]),
        ("l2", vec![0, 4, 0, 3, 4, 1]),
        ("l2-twice", vec![250, 4, 0, 0, 4, 0, 5]),
        ("refcount", vec![0, 9, 0, 5, 0, 0]),
        ("block", vec![0, 7, 0, 0, 4, 1]),
        ("cut", vec![224, 0, 0, 0, 0, 0, 0, 8, 0]),
        ("extension", vec![236, 7, 5, 1, 2, 3, 4, 5, 0]),
    ]
}

/// Requests of all kinds.
fn script(target: Target, first: u8) -> Vec<u8> {
    if target == Target::Open {
        return vec![];
    }
    let requests = (0..16_u8).flat_map(|number| {
        let kind = if target == Target::Fill { [0, 2, 14, 15][usize::from(number % 4)] } else { number * 5 };
        let mixed = first.wrapping_add(number.wrapping_mul(37));
        [kind % 16, mixed % 6, mixed % 24, mixed.wrapping_mul(11) % 160, number]
    });
    requests.collect()
}
