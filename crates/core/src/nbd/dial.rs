//! The client's half of the handshake, as a state machine like the server's.

use super::wire::*;
use super::{Broken, Fields, Limits, Mode};

/// What the client would like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Name of the export; empty for the default one.
    pub export: String,
    /// The richest mode to ask for; the server may grant less.
    pub mode: Mode,
    /// Ask for base:allocation (needs more than simple replies).
    pub block_status: bool,
}

/// What was granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialled {
    /// Bytes of the export.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Smallest, preferred and largest unit in bytes; the defaults of the protocol when the server was silent.
    pub block: [u32; 3],
    /// How messages look.
    pub mode: Mode,
    /// The id of base:allocation when it was selected.
    pub context: Option<u32>,
}

/// Why the handshake failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DialError {
    /// The server broke the protocol.
    #[error("not a fixed newstyle NBD server: {0}")]
    Broken(#[from] Broken),
    /// The server refused the export: its number and its words.
    #[error("refused ({0:#x}): {1}")]
    Refused(u32, String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Greeting,
    Option(u32),
}

/// One negotiation.
#[derive(Clone, Debug)]
pub struct Dial {
    state: State,
    wish: Wish,
    limits: Limits,
    got: Dialled,
    told_export: bool,
}

impl Dial {
    /// Starts one.
    pub fn new(wish: Wish, limits: Limits) -> Self {
        let got = Dialled {
            size: 0,
            flags: 0,
            block: [512, 4096, limits.payload_bytes_max],
            mode: Mode::Simple,
            context: None,
        };
        Dial { state: State::Greeting, wish, limits, got, told_export: false }
    }
    /// Handles the first message of `input`; returns the bytes it took (0: read on) and the outcome when it is settled.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Dialled>), DialError> {
        match self.state {
            State::Greeting => self.greeting(input, out).map(|n| (n, None)),
            State::Option(option) => self.reply(option, input, out),
        }
    }
    fn greeting(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, DialError> {
        let mut f = Fields(input);
        let (Some(a), Some(b), Some(flags)) = (f.u64(), f.u64(), f.u16()) else { return Ok(0) };
        if a != INIT_MAGIC || b != OPTION_MAGIC || flags & FIXED_NEWSTYLE == 0 {
            return Err(Broken("greeting").into());
        }
        out.extend_from_slice(&u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes());
        self.next(0, out);
        Ok(GREETING_LEN)
    }
    /// Sends the option that comes after `last`.
    fn next(&mut self, last: u32, out: &mut Vec<u8>) {
        let name = self.wish.export.as_bytes();
        let name = [&(name.len() as u32).to_be_bytes()[..], name].concat();
        let (option, data) = if last == 0 && self.wish.mode == Mode::Extended {
            (OPT_EXTENDED_HEADERS, Vec::new())
        } else if matches!(last, 0 | OPT_EXTENDED_HEADERS)
            && self.wish.mode != Mode::Simple
            && self.got.mode == Mode::Simple
        {
            (OPT_STRUCTURED_REPLY, Vec::new())
        } else if last != OPT_SET_META_CONTEXT && self.got.mode != Mode::Simple && self.wish.block_status {
            let query =
                [&(BASE_ALLOCATION.len() as u32).to_be_bytes()[..], BASE_ALLOCATION.as_bytes()].concat();
            (OPT_SET_META_CONTEXT, [&name[..], &1u32.to_be_bytes(), &query].concat())
        } else {
            (OPT_GO, [&name[..], &1u16.to_be_bytes(), &INFO_BLOCK_SIZE.to_be_bytes()].concat())
        };
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(&data);
        self.state = State::Option(option);
    }
    fn reply(
        &mut self,
        option: u32,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<Dialled>), DialError> {
        let mut f = Fields(input);
        let head = (|| Some((f.u64()?, f.u32()?, f.u32()?, f.u32()?)))();
        let Some((magic, to, kind, len)) = head else { return Ok((0, None)) };
        if magic != OPTION_REPLY_MAGIC || to != option {
            return Err(Broken("option reply").into());
        }
        if len as usize > self.limits.option_bytes_max {
            return Err(Broken("option reply too long").into());
        }
        let Some(data) = f.bytes(len as usize) else { return Ok((0, None)) };
        let took = OPTION_REPLY_HEAD_LEN + data.len();
        match kind {
            REP_ACK => return Ok((took, self.acknowledged(option, out)?)),
            REP_INFO if option == OPT_GO => self.info(data).ok_or(Broken("malformed info"))?,
            REP_META_CONTEXT if option == OPT_SET_META_CONTEXT => {
                let mut f = Fields(data);
                let id = f.u32().ok_or(Broken("malformed context"))?;
                if f.0 == BASE_ALLOCATION.as_bytes() {
                    self.got.context = Some(id);
                }
            }
            k if k & REP_ERR != 0 && option == OPT_GO => {
                return Err(DialError::Refused(k, String::from_utf8_lossy(data).into_owned()));
            }
            // Everything before GO is a wish: refused is fine.
            k if k & REP_ERR != 0 => {
                self.got.context = None;
                self.next(option, out);
            }
            _ => return Err(Broken("unexpected option reply").into()),
        }
        Ok((took, None))
    }
    fn acknowledged(&mut self, option: u32, out: &mut Vec<u8>) -> Result<Option<Dialled>, Broken> {
        match option {
            OPT_GO if self.told_export => return Ok(Some(self.got.clone())),
            OPT_GO => return Err(Broken("GO without the size of the export")),
            OPT_EXTENDED_HEADERS => self.got.mode = Mode::Extended,
            OPT_STRUCTURED_REPLY => self.got.mode = Mode::Structured,
            _ => {}
        }
        self.next(option, out);
        Ok(None)
    }
    fn info(&mut self, data: &[u8]) -> Option<()> {
        let mut f = Fields(data);
        match f.u16()? {
            INFO_EXPORT => {
                (self.got.size, self.got.flags) = (f.u64()?, f.u16()?);
                self.told_export = true;
            }
            INFO_BLOCK_SIZE => {
                let block = [f.u32()?, f.u32()?, f.u32()?];
                let sane = block[0].is_power_of_two() && block[1] >= block[0] && block[2] >= block[0];
                self.got.block = sane.then_some(block)?;
            }
            _ => {}
        }
        Some(())
    }
}
