//! What a peer can make us hold or do. The bounds stand together and are asserted against each other.

/// Bounds of negotiation and of single requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest export name, description or query, in bytes: the protocol's own bound.
    pub string_bytes_max: usize,
    /// Longest data of one option that is looked at; longer data is skipped unread.
    pub option_bytes_max: usize,
    /// Longest data of one option that is skipped; a longer one ends the connection.
    pub option_skip_max: u64,
    /// How many options a client may send before it is cut.
    pub options_max: u32,
    /// Most queries in one metadata option.
    pub queries_max: u32,
    /// Largest payload of one read or write that is served, and announced as maximum block size.
    pub payload_bytes_max: u32,
    /// Longest payload of a refused request that is skipped; a longer one ends the connection.
    pub payload_skip_max: u64,
    /// Largest read that may ask not to be fragmented.
    pub unfragmented_bytes_max: u32,
    /// Most descriptors in one answer to a block status request.
    pub descriptors_max: usize,
}

impl Limits {
    /// The defaults; their relations are checked at compile time.
    pub const DEFAULT: Limits = Limits {
        string_bytes_max: 4096,
        option_bytes_max: 64 << 10,
        option_skip_max: 1 << 20,
        options_max: 1024,
        queries_max: 64,
        payload_bytes_max: 32 << 20,
        payload_skip_max: 64 << 20,
        unfragmented_bytes_max: 4 << 20,
        descriptors_max: 4096,
    };
    /// Whether the bounds make sense together.
    pub const fn consistent(&self) -> bool {
        // An option holds at least a name, its length and a count; the spec says payloads up to 32 MiB are no attack,
        // asks for 1 MiB at least, and wants unfragmented reads of 64 KiB served.
        self.option_bytes_max >= self.string_bytes_max + 8
            && self.option_skip_max >= self.option_bytes_max as u64
            && self.payload_bytes_max >= 1 << 20
            && self.payload_bytes_max.is_multiple_of(1 << 16)
            && self.payload_skip_max >= self.payload_bytes_max as u64
            && self.payload_skip_max >= 32 << 20
            && self.unfragmented_bytes_max >= 1 << 16
            && self.unfragmented_bytes_max <= self.payload_bytes_max
            && self.descriptors_max >= 1
            && self.descriptors_max <= 1 << 20
            && self.options_max >= 16
    }
}

const _: () = assert!(Limits::DEFAULT.consistent());

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
