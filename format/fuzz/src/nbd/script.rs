//! Sessions that get far: options and requests from a script, mostly right, so that what mutates them changes
//! what is asked for and not the magic numbers.

use super::disks::{READ_ONLY, SIZE, WRITABLE};
use super::seeds::{option, request};

/// A session has at most so many bytes: longer ones say nothing new.
const LONGEST: usize = 2 << 20;
const MOST_OPTIONS: u32 = 12;
const MOST_REQUESTS: u32 = 40;

/// A script; beyond its end there are zeroes.
struct Script<'a> {
    rest: &'a [u8],
}

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.rest.split_off_first().copied().unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = usize::from(self.byte()).min(most).min(self.rest.len());
        self.rest.split_off(..count).unwrap_or_default().to_vec()
    }
}

/// All that the client of a script sends.
pub fn session(script: &[u8]) -> Vec<u8> {
    let mut script = Script { rest: script };
    let flags: u32 = script.pick(&[3, 3, 3, 1, 3, 3, 3, 0, 3, 3, 2, 4]);
    let mut stream = flags.to_be_bytes().to_vec();
    for _ in 0..MOST_OPTIONS {
        if push_option(&mut script, &mut stream) {
            break;
        }
    }
    for _ in 0..MOST_REQUESTS {
        if script.rest.is_empty() || stream.len() > LONGEST {
            break;
        }
        push_request(&mut script, &mut stream);
    }
    stream
}

/// Adds an option; whether requests follow it.
fn push_option(script: &mut Script<'_>, stream: &mut Vec<u8>) -> bool {
    const COMMON: [u8; 12] = [7, 8, 10, 3, 9, 6, 7, 8, 10, 1, 0, 2];
    let number = script.pick(&COMMON);
    let data = match number {
        1 => name(script).to_vec(),
        6 | 7 => [string(name(script)), informations(script)].concat(),
        9 | 10 => [string(name(script)), queries(script)].concat(),
        0 => script.bytes(40),
        _ => vec![],
    };
    let number = if number == 0 { script.number() } else { number.into() };
    let mut bytes = option(number, &data);
    if script.byte() == 99 {
        // Its length is a lie.
        let length = script.number();
        bytes[12..16].copy_from_slice(&length.to_be_bytes());
    }
    stream.extend(bytes);
    matches!(number, 1 | 7)
}

fn name(script: &mut Script<'_>) -> &'static [u8] {
    let names = [WRITABLE, WRITABLE, READ_ONLY, "", WRITABLE, "none"];
    script.pick(&names).as_bytes()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn informations(script: &mut Script<'_>) -> Vec<u8> {
    let count = u16::from(script.pick(&[0_u8, 1, 4, 30]));
    let told = count.wrapping_add(script.pick(&[0, 0, 0, 0, 0, 1]));
    let mut bytes = told.to_be_bytes().to_vec();
    (0..count).for_each(|_| bytes.extend(u16::from(script.byte() % 5).to_be_bytes()));
    bytes
}

fn queries(script: &mut Script<'_>) -> Vec<u8> {
    let count = u32::from(script.pick(&[1_u8, 1, 0, 3]));
    let told = script.pick(&[count, count, count, count, u32::MAX]);
    let mut bytes = told.to_be_bytes().to_vec();
    for _ in 0..count {
        bytes.extend(string(script.pick(&[b"base:allocation" as &[u8], b"base:", b"qemu:x", b""])));
    }
    bytes
}

fn push_request(script: &mut Script<'_>, stream: &mut Vec<u8>) {
    let command = script.pick(&[0, 1, 0, 1, 7, 5, 6, 3, 4, 0, 1, 7, 6, 0, 9, 2]);
    let flags = script.pick(&[0, 0, 0, 1, 2, 4, 8, 0x8000]);
    let (offset, length) = range(script);
    let (offset, length) = if command == 3 && flags != 2 { (0, 0) } else { (offset, length) };
    stream.extend(request(command, flags, offset, length));
    if command == 1 {
        let seed = script.byte();
        let whole = (length as usize).min(LONGEST.saturating_sub(stream.len()));
        let sent = if seed == 13 { whole / 2 } else { whole };
        stream.resize(stream.len() + sent, seed);
    }
}

fn range(script: &mut Script<'_>) -> (u64, u32) {
    let at = u64::from(script.byte());
    let offset = match script.byte() % 16 {
        0 => at,
        1 => SIZE - at,
        2 => SIZE + at,
        3 => u64::MAX - at,
        4 => at << 32,
        5..8 => (at << 12).wrapping_sub(1),
        _ => at << 13,
    };
    const LENGTHS: [u32; 13] = [512, 4096, 1, 8192, 0, 16384, 3, 65_536, 1000, 20_000, 512, 4096, u32::MAX];
    // Few are large: they take long and tell little.
    let length = match script.byte() {
        240..246 => 700_000,
        246..252 => 786_433,
        252..254 => SIZE as u32,
        254 => 32 << 20,
        255 => (32 << 20) + 1,
        byte => LENGTHS[usize::from(byte) % LENGTHS.len()],
    };
    (offset, length)
}
