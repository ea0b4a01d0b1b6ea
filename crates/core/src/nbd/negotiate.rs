//! The server's half of the handshake: a state machine that takes bytes and gives reply bytes and a verdict.
//!
//! One call handles at most one message, so what a single call appends is bounded by one option's answer whatever the
//! client pipelines. TLS is not spoken: a Unix socket needs none, TCP belongs inside a tunnel or a trusted net.

use super::wire::*;
use super::{Broken, Fields, Limits, Mode};

/// What a client is told of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Names this very registration: an export removed and added again under its name gets another.
    pub id: u64,
    /// The full name, also when the client asked for the default one.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Smallest unit of access, in bytes.
    pub block_min: u32,
    /// Preferred unit, in bytes.
    pub block_preferred: u32,
    /// Transmission flags that hold whatever is negotiated (`SEND_DF` is added here when it applies).
    pub flags: u16,
}

/// Which exports there are. Asked during negotiation only.
pub trait Catalogue {
    /// The export of that name; the empty name is the default export.
    fn find(&self, name: &str) -> Option<ExportInfo>;
    /// Names and descriptions, for LIST.
    fn each(&self, tell: &mut dyn FnMut(&str, &str));
}

/// What client and server settled on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// The export.
    pub export: ExportInfo,
    /// How requests and replies look.
    pub mode: Mode,
    /// base:allocation was selected for this export.
    pub block_status: bool,
}

/// What to do after a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The next message is not whole yet: read on.
    More,
    /// A message was handled; there may be another one.
    Again,
    /// Send what was appended, then serve.
    Agreed(Agreed),
    /// Send what was appended, then close: the client asked for it.
    Done,
    /// Send what was appended, then close: the client broke a rule.
    Broken(Broken),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    ClientFlags,
    Option,
    Skip(u64),
}

/// One client's negotiation.
#[derive(Clone, Debug)]
pub struct Negotiation {
    state: State,
    limits: Limits,
    grant_structured: bool,
    fixed: bool,
    no_zeroes: bool,
    mode: Mode,
    context_of: Option<u64>,
    options: u32,
    asked_structured: bool,
    asked_context: bool,
}

impl Negotiation {
    /// A new one. Without `grant_structured` both structured replies and extended headers are refused.
    pub fn new(limits: Limits, grant_structured: bool) -> Self {
        Negotiation {
            state: State::ClientFlags,
            limits,
            grant_structured,
            fixed: false,
            no_zeroes: false,
            mode: Mode::Simple,
            context_of: None,
            options: 0,
            asked_structured: false,
            asked_context: false,
        }
    }
    /// The server speaks first: this.
    pub fn greeting() -> [u8; GREETING_LEN] {
        let mut g = [0; GREETING_LEN];
        g[..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
        g[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        g[16..].copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        g
    }
    /// The client asked for structured replies or extended headers, granted or not.
    pub fn asked_structured(&self) -> bool {
        self.asked_structured
    }
    /// The client asked about metadata contexts, so chunks are of use to it.
    pub fn asked_context(&self) -> bool {
        self.asked_context
    }
    /// Handles the first message in `input`; returns how many bytes it took.
    pub fn step(&mut self, input: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) -> (usize, Step) {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Skip(left) => {
                let n = left.min(input.len() as u64);
                self.state = if n == left { State::Option } else { State::Skip(left - n) };
                (n as usize, if n == 0 { Step::More } else { Step::Again })
            }
            State::Option => self.option(input, catalogue, out),
        }
    }
    fn client_flags(&mut self, input: &[u8]) -> (usize, Step) {
        let Some(flags) = Fields(input).u32() else { return (0, Step::More) };
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return (4, Step::Broken(Broken("unknown client flags")));
        }
        self.fixed = flags & u32::from(FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        self.state = State::Option;
        (4, Step::Again)
    }
    fn option(&mut self, input: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) -> (usize, Step) {
        let mut f = Fields(input);
        let Some(magic) = f.u64() else { return (0, Step::More) };
        if magic != OPTION_MAGIC {
            return (8, Step::Broken(Broken("bad option magic")));
        }
        let (Some(option), Some(len)) = (f.u32(), f.u32()) else { return (0, Step::More) };
        if !self.fixed && option != OPT_EXPORT_NAME {
            return (
                OPTION_HEAD_LEN,
                Step::Broken(Broken("a client without fixed newstyle may only name an export")),
            );
        }
        if len as usize > self.limits.option_bytes_max {
            self.options += 1;
            return (OPTION_HEAD_LEN, self.too_long(option, u64::from(len), out));
        }
        let Some(data) = f.bytes(len as usize) else { return (0, Step::More) };
        self.options += 1;
        let step = if self.options > self.limits.options_max {
            Step::Broken(Broken("too many options"))
        } else {
            self.handle(option, data, catalogue, out)
        };
        (OPTION_HEAD_LEN + data.len(), step)
    }
    fn too_long(&mut self, option: u32, len: u64, out: &mut Vec<u8>) -> Step {
        if option == OPT_EXPORT_NAME || len > self.limits.option_skip_max {
            return Step::Broken(Broken("option data beyond any reason"));
        }
        if self.options > self.limits.options_max {
            return Step::Broken(Broken("too many options"));
        }
        if option == OPT_SET_META_CONTEXT {
            self.context_of = None;
        }
        refuse(out, option, REP_ERR_TOO_BIG, "option data too long");
        self.state = State::Skip(len);
        Step::Again
    }
    fn handle(&mut self, option: u32, data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) -> Step {
        match option {
            OPT_EXPORT_NAME => return self.export_name(data, catalogue, out),
            OPT_ABORT => {
                answer(out, option, REP_ACK, &[]);
                return Step::Done;
            }
            OPT_LIST => list(data, catalogue, out),
            OPT_INFO | OPT_GO => return self.info_or_go(option, data, catalogue, out),
            OPT_STRUCTURED_REPLY | OPT_EXTENDED_HEADERS => self.chunks(option, data, out),
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.meta_context(option, data, catalogue, out),
            OPT_STARTTLS => refuse(out, option, REP_ERR_UNSUP, "TLS is not spoken here"),
            _ => refuse(out, option, REP_ERR_UNSUP, "unknown option"),
        }
        Step::Again
    }
    fn export_name(&self, data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) -> Step {
        let name =
            (data.len() <= self.limits.string_bytes_max).then(|| std::str::from_utf8(data).ok()).flatten();
        // This option has no error reply: closing is how the protocol says no.
        let Some(export) = name.and_then(|n| catalogue.find(n)) else {
            return Step::Broken(Broken("no such export"));
        };
        out.extend_from_slice(&export.size.to_be_bytes());
        out.extend_from_slice(&self.flags(&export).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        Step::Agreed(self.agreed(export))
    }
    fn info_or_go(&self, option: u32, data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) -> Step {
        let Some((name, wanted)) = parse_info(data, &self.limits) else {
            refuse(out, option, REP_ERR_INVALID, "malformed option data");
            return Step::Again;
        };
        let Some(export) = catalogue.find(name) else {
            refuse(out, option, REP_ERR_UNKNOWN, "no such export");
            return Step::Again;
        };
        let info = |out: &mut Vec<u8>, kind: u16, parts: &[&[u8]]| {
            answer(out, option, REP_INFO, &[&kind.to_be_bytes()[..], &parts.concat()].concat());
        };
        info(out, INFO_EXPORT, &[&export.size.to_be_bytes(), &self.flags(&export).to_be_bytes()]);
        // Unasked too: a client that ignores it meets EINVAL at worst, one that reads it is served better.
        let max = self.limits.payload_bytes_max;
        let sizes = [export.block_min, export.block_preferred, max].map(u32::to_be_bytes);
        info(out, INFO_BLOCK_SIZE, &[&sizes[0], &sizes[1], &sizes[2]]);
        let asked = |kind: u16| wanted.chunks_exact(2).any(|w| w == kind.to_be_bytes());
        if asked(INFO_NAME) {
            info(out, INFO_NAME, &[export.name.as_bytes()]);
        }
        if asked(INFO_DESCRIPTION) && !export.description.is_empty() {
            info(out, INFO_DESCRIPTION, &[export.description.as_bytes()]);
        }
        answer(out, option, REP_ACK, &[]);
        if option == OPT_GO { Step::Agreed(self.agreed(export)) } else { Step::Again }
    }
    fn chunks(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) {
        self.asked_structured = true;
        if !data.is_empty() {
            return refuse(out, option, REP_ERR_INVALID, "this option takes no data");
        }
        if !self.grant_structured {
            return refuse(out, option, REP_ERR_POLICY, "simple replies only");
        }
        if option == OPT_EXTENDED_HEADERS {
            self.mode = Mode::Extended;
        } else if self.mode == Mode::Extended {
            return refuse(out, option, REP_ERR_EXT_HEADER_REQD, "extended headers are in effect");
        } else {
            self.mode = Mode::Structured;
        }
        answer(out, option, REP_ACK, &[]);
    }
    fn meta_context(&mut self, option: u32, data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) {
        let set = option == OPT_SET_META_CONTEXT;
        self.asked_context = true;
        if set {
            self.context_of = None;
        }
        if self.mode == Mode::Simple {
            return refuse(out, option, REP_ERR_INVALID, "structured replies first");
        }
        let Some((name, queries)) = parse_meta(data, &self.limits) else {
            return refuse(out, option, REP_ERR_INVALID, "malformed option data");
        };
        let Some(queries) = queries else {
            return refuse(out, option, REP_ERR_TOO_BIG, "too many queries");
        };
        let Some(export) = catalogue.find(name) else {
            return refuse(out, option, REP_ERR_UNKNOWN, "no such export");
        };
        let hit = queries.iter().any(|q| *q == BASE_ALLOCATION || (!set && *q == "base:"));
        if hit || (!set && queries.is_empty()) {
            let id = if set { BASE_ALLOCATION_ID } else { 0 };
            answer(
                out,
                option,
                REP_META_CONTEXT,
                &[&id.to_be_bytes()[..], BASE_ALLOCATION.as_bytes()].concat(),
            );
            if set {
                self.context_of = Some(export.id);
            }
        }
        answer(out, option, REP_ACK, &[]);
    }
    fn flags(&self, export: &ExportInfo) -> u16 {
        let df = if self.mode == Mode::Simple { 0 } else { FLAG_SEND_DF };
        FLAG_HAS_FLAGS | (export.flags & !FLAG_SEND_DF) | df
    }
    fn agreed(&self, export: ExportInfo) -> Agreed {
        Agreed { block_status: self.context_of == Some(export.id), mode: self.mode, export }
    }
}

fn list(data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) {
    if !data.is_empty() {
        return refuse(out, OPT_LIST, REP_ERR_INVALID, "this option takes no data");
    }
    catalogue.each(&mut |name, description| {
        let len = (name.len() as u32).to_be_bytes();
        answer(out, OPT_LIST, REP_SERVER, &[&len[..], name.as_bytes(), description.as_bytes()].concat());
    });
    answer(out, OPT_LIST, REP_ACK, &[]);
}

/// Name and the list of wanted kinds (two bytes each).
fn parse_info<'a>(data: &'a [u8], limits: &Limits) -> Option<(&'a str, &'a [u8])> {
    let mut f = Fields(data);
    let name = f.text(limits.string_bytes_max)?;
    let count = f.u16()?;
    (f.0.len() == usize::from(count) * 2).then_some((name, f.0))
}

/// Name and queries; no queries when there are too many of them.
fn parse_meta<'a>(data: &'a [u8], limits: &Limits) -> Option<(&'a str, Option<Vec<&'a str>>)> {
    let mut f = Fields(data);
    let name = f.text(limits.string_bytes_max)?;
    let count = f.u32()?;
    if count > limits.queries_max {
        return Some((name, None));
    }
    let queries = (0..count).map(|_| f.text(limits.string_bytes_max)).collect::<Option<Vec<_>>>()?;
    f.0.is_empty().then_some((name, Some(queries)))
}

fn answer(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

fn refuse(out: &mut Vec<u8>, option: u32, kind: u32, why: &str) {
    answer(out, option, kind, why.as_bytes());
}
