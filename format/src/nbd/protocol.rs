//! The numbers of the NBD protocol, and how requests and replies are laid out.
//!
//! Source: `doc/proto.md` of the NBD project. All integers are big-endian.

use crate::byte_range::range_at;
use std::ops::Range;

pub(super) const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Most bytes of an export's name, or of another string.
pub(super) const MAX_STRING: usize = 4096;
/// Most bytes of an option's data.
pub(super) const MAX_OPTION: u32 = 64 << 10;
/// Most bytes that one request may read or write.
pub(super) const MAX_PAYLOAD: u32 = 32 << 20;

pub(super) mod handshake {
    pub const FIXED_NEWSTYLE: u16 = 1;
    pub const NO_ZEROES: u16 = 2;
}

pub(super) mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

pub(super) mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUPPORTED: u32 = 0x8000_0001;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

pub(super) mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

pub(super) mod transmission {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
}

pub(super) mod command_flag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
}

pub(super) mod chunk {
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) | 1;
}

/// What `base:allocation` tells of an extent.
pub(super) mod allocation {
    pub const HOLE: u32 = 1;
    pub const ZERO: u32 = 2;
}

/// Errors as a client is told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    Shutdown = 108,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
    Unknown(u16),
}

impl Command {
    fn from_code(code: u16) -> Self {
        match code {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            other => Command::Unknown(other),
        }
    }

    /// The flags that may stand beside it.
    pub fn allowed_flags(self) -> u16 {
        use command_flag::*;
        match self {
            Command::Read => FUA | DF,
            Command::WriteZeroes => FUA | NO_HOLE,
            Command::BlockStatus => FUA | REQ_ONE,
            _ => FUA,
        }
    }
}

/// A request's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub flags: u16,
    pub command: Command,
    /// The client's own name of the request.
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl Request {
    pub const SIZE: usize = 28;

    /// `None` if it does not begin as requests do.
    pub fn parse(header: &[u8; Self::SIZE]) -> Option<Self> {
        let (magic, rest) = take::<4>(header)?;
        let (flags, rest) = take::<2>(rest)?;
        let (command, rest) = take::<2>(rest)?;
        let (cookie, rest) = take::<8>(rest)?;
        let (offset, rest) = take::<8>(rest)?;
        let (length, _) = take::<4>(rest)?;
        (u32::from_be_bytes(magic) == REQUEST_MAGIC).then(|| Request {
            flags: u16::from_be_bytes(flags),
            command: Command::from_code(u16::from_be_bytes(command)),
            cookie: u64::from_be_bytes(cookie),
            offset: u64::from_be_bytes(offset),
            length: u32::from_be_bytes(length),
        })
    }

    /// The bytes of the disk that it concerns, should they lie there.
    pub fn range(&self) -> Range<u64> {
        range_at(self.offset, self.length.into())
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Splits the first `N` bytes off.
pub(super) fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    Some((*first, rest))
}

/// A header of few bytes, kept without an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small {
    bytes: [u8; 32],
    len: usize,
}

impl Small {
    fn new() -> Self {
        Small { bytes: [0; 32], len: 0 }
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        let end = self.len.saturating_add(bytes.len());
        debug_assert!(end <= self.bytes.len());
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(bytes);
            self.len = end;
        }
        self
    }

    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The header of a reply without structure.
    pub fn simple_reply(error: u32, cookie: u64) -> Self {
        Small::new()
            .push(&SIMPLE_REPLY_MAGIC.to_be_bytes())
            .push(&error.to_be_bytes())
            .push(&cookie.to_be_bytes())
    }

    /// The header of a chunk, with the first bytes of its payload.
    pub fn chunk(flags: u16, kind: u16, cookie: u64, payload: u32, start: &[u8]) -> Self {
        Small::new()
            .push(&STRUCTURED_REPLY_MAGIC.to_be_bytes())
            .push(&flags.to_be_bytes())
            .push(&kind.to_be_bytes())
            .push(&cookie.to_be_bytes())
            .push(&payload.to_be_bytes())
            .push(start)
    }
}
