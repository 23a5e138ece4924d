//! Image files from strangers, and what must hold whatever they hold.
//!
//! An input names a sound image, then says how it is changed, then what is done with the result; or it is a file as it
//! stands. Everything is in memory, on one thread, and waits for no clock: an input does the same every time.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 1 | the image: a number of [`templates`], or [`RAW`] |
//! | if raw: 2, and as many | the length of the file, the file |
//! | 1 | [`Setting`] |
//! | 1, and a few each | the number of patches, and the patches: see [`patches`] |
//! | the rest | the script: see [`script`] |

mod disks;
mod model;
mod patches;
mod requests;
pub mod script;
pub mod seeds;
mod store;
mod targets;
pub mod templates;

pub use targets::{Target, play};

use std::rc::Rc;
use store::Store;

/// The number of no template: the file itself follows.
pub const RAW: u8 = 255;

/// An input that is being read; behind its end there are zeroes.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn next(&mut self) -> Option<u8> {
        self.rest.split_off_first().copied()
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A count, and as many bytes.
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = usize::from(self.byte()).min(most).min(self.rest.len());
        self.rest.split_off(..count).unwrap_or_default().to_vec()
    }
}

/// How an image is opened, beside what a target is about.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// There is an image below, of [`BASE_BYTES`](disks::BASE_BYTES).
    pub is_backed: bool,
    /// Slices of tables are kept as few as possible.
    pub small_cache: bool,
    /// Every change is published at once.
    pub small_batches: bool,
    /// Guests wait for the copies that a cache keeps.
    pub in_path: bool,
    /// A repair frees leaked clusters, and does nothing more.
    pub only_leaks: bool,
    /// An external data file is given to images that have none, and the other way round.
    pub wrong_data_file: bool,
}

impl Setting {
    fn parse(byte: u8) -> Self {
        let bit = |number: u8| byte >> number & 1 == 1;
        Setting {
            is_backed: bit(0),
            small_cache: bit(1),
            small_batches: bit(2),
            in_path: bit(3),
            only_leaks: bit(4),
            wrong_data_file: bit(7) && bit(6) && bit(5),
        }
    }
}

/// An image file that an input has.
pub struct Hostile {
    /// The file.
    pub store: Store,
    /// How it is opened.
    pub setting: Setting,
    /// Nothing about it was changed: it is one of the [`templates`].
    pub is_sound: bool,
    /// It has bitmaps, or may have.
    pub has_bitmaps: bool,
}

impl Hostile {
    /// The file, and what of the input is left: the script.
    pub fn parse<'a>(bytes: &'a [u8]) -> (Self, Input<'a>) {
        let mut input = Input { rest: bytes };
        let template = input.byte();
        let base = match template {
            RAW => {
                let length = usize::from(input.byte()) << 8 | usize::from(input.byte());
                let length = length.min(input.rest.len());
                Rc::new(input.rest.split_off(..length).unwrap_or_default().to_vec())
            }
            number => templates::template(number),
        };
        let setting = Setting::parse(input.byte());
        let store = Store::new(base);
        let patches = patches::apply(&mut input, &store);
        let is_sound = template != RAW && patches == 0;
        let bitmaps = 0x2385_2875_u32.to_be_bytes();
        let has_bitmaps = store.get(0, 4096).windows(4).any(|bytes| bytes == bitmaps);
        (Hostile { store, setting, is_sound, has_bitmaps }, input)
    }
}
