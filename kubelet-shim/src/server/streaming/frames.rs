//! SPDY/3.1 frames: heads and control frames, read and written. Pure; data passes by in pieces.

use thiserror::Error;

use super::header_block::{BlockError, BlockReader, BlockWriter, Headers};

/// Bytes that every frame begins with.
pub(super) const HEAD_BYTES: usize = 8;

/// The longest control frame that is taken. What clients of Kubernetes send has some hundred bytes.
const CONTROL_BYTES_MAX: u32 = 16 << 10;

/// The version of frames; 3.1 differs from 3 in flow control only.
const VERSION: u16 = 3;

/// The mark of the last frame of a stream's direction.
const FIN: u8 = 1;

/// Bits of a number that are a stream's name.
const STREAM_BITS: u32 = 0x7fff_ffff;

/// The length of a frame has 24 bits.
const LENGTH_BITS: u32 = 0x00ff_ffff;

/// The reason of a stream's reset that says it was not taken.
pub(super) const REFUSED: u32 = 3;

/// A stream's name: odd for those that the client opens.
pub(super) type StreamId = u32;

/// Whether a direction of a stream ends with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Yes,
    No,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// So many bytes of a stream follow.
    Data {
        stream: StreamId,
        last: Last,
        length: u32,
    },
    /// A control frame follows.
    Control(ControlHead),
}

/// What is known of a control frame before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ControlHead {
    kind: u16,
    flags: u8,
    length: u32,
}

/// A control frame. What no kubelet acts on is kept so far that it can be told from the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Open {
        stream: StreamId,
        last: Last,
        headers: Headers,
    },
    Reply {
        stream: StreamId,
        headers: Headers,
    },
    Reset {
        stream: StreamId,
        /// [`REFUSED`] or another number.
        reason: u32,
    },
    Settings,
    Ping(u32),
    GoAway {
        last_taken: StreamId,
    },
    Headers {
        stream: StreamId,
        last: Last,
        headers: Headers,
    },
    /// No client of Kubernetes keeps to windows, and none waits for one.
    WindowUpdate {
        stream: StreamId,
        delta: u32,
    },
    /// A kind that nobody knows is skipped.
    Unknown(u16),
}

/// Why a frame cannot be read; the connection ends with it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum FrameError {
    #[error("a frame of version {0}")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLong(u32),
    #[error("a control frame of kind {0} has the wrong length")]
    Length(u16),
    #[error("a control frame is about no stream")]
    NoStream,
    #[error("failed to read a header block")]
    Block(#[from] BlockError),
}

impl Last {
    fn of(flags: u8) -> Last {
        match flags & FIN {
            0 => Last::No,
            _ => Last::Yes,
        }
    }

    fn flag(self) -> u8 {
        match self {
            Last::Yes => FIN,
            Last::No => 0,
        }
    }
}

impl Head {
    /// Reads the first bytes of a frame.
    pub(super) fn read(bytes: [u8; HEAD_BYTES]) -> Result<Head, FrameError> {
        let [a, b, c, d, flags, e, f, g] = bytes;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, e, f, g]);
        if first & !STREAM_BITS == 0 {
            return Ok(Head::Data {
                stream: first,
                last: Last::of(flags),
                length,
            });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        let kind = u16::from_be_bytes([c, d]);
        match version {
            VERSION if length <= CONTROL_BYTES_MAX => Ok(Head::Control(ControlHead {
                kind,
                flags,
                length,
            })),
            VERSION => Err(FrameError::TooLong(length)),
            other => Err(FrameError::Version(other)),
        }
    }

    /// Writes the head of a frame with so many bytes of a stream; more than 24 bits can say are
    /// never asked for.
    pub(super) fn data(stream: StreamId, last: Last, length: usize) -> [u8; HEAD_BYTES] {
        let length = u32::try_from(length).unwrap_or(LENGTH_BITS) & LENGTH_BITS;
        let [a, b, c, d] = (stream & STREAM_BITS).to_be_bytes();
        let [_, e, f, g] = length.to_be_bytes();
        [a, b, c, d, last.flag(), e, f, g]
    }
}

impl ControlHead {
    /// Returns how many bytes follow; never more than a named limit.
    pub(super) fn length(self) -> usize {
        self.length as usize
    }
}

impl Control {
    /// Reads a control frame from its payload, which has the length that its head says.
    pub(super) fn read(
        head: ControlHead,
        payload: &[u8],
        blocks: &mut BlockReader,
    ) -> Result<Control, FrameError> {
        let ControlHead { kind, flags, .. } = head;
        let last = Last::of(flags);
        let mut rest = payload;
        let mut number = || {
            let (number, behind) = rest.split_first_chunk().ok_or(FrameError::Length(kind))?;
            rest = behind;
            Ok::<_, FrameError>(u32::from_be_bytes(*number))
        };
        let control = match kind {
            1 => {
                let stream = stream(number()?)?;
                // Which stream it belongs to and how urgent it is: nobody acts on it.
                let _associated = number()?;
                let rest = rest.get(2..).ok_or(FrameError::Length(kind))?;
                let headers = blocks.read(rest)?;
                return Ok(Control::Open {
                    stream,
                    last,
                    headers,
                });
            }
            2 | 8 => {
                let stream = stream(number()?)?;
                let headers = blocks.read(rest)?;
                return Ok(match kind {
                    2 => Control::Reply { stream, headers },
                    _ => Control::Headers {
                        stream,
                        last,
                        headers,
                    },
                });
            }
            3 => Control::Reset {
                stream: stream(number()?)?,
                reason: number()?,
            },
            4 => return settings(number()?, rest),
            6 => Control::Ping(number()?),
            7 => {
                let last_taken = number()? & STREAM_BITS;
                let _reason = number()?;
                Control::GoAway { last_taken }
            }
            9 => Control::WindowUpdate {
                stream: number()? & STREAM_BITS,
                delta: number()? & STREAM_BITS,
            },
            other => return Ok(Control::Unknown(other)),
        };
        match rest {
            [] => Ok(control),
            _ => Err(FrameError::Length(kind)),
        }
    }

    /// Writes the frame, head and all.
    pub(super) fn write(&self, blocks: &mut BlockWriter) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let (kind, last, payload): (u16, Last, Vec<u8>) = match self {
            Control::Open {
                stream,
                last,
                headers,
            } => {
                let mut payload: Vec<u8> = words(&[*stream, 0]);
                payload.extend([0, 0]);
                payload.extend(blocks.write(headers));
                (1, *last, payload)
            }
            Control::Reply { stream, headers } => {
                let mut payload: Vec<u8> = words(&[*stream]);
                payload.extend(blocks.write(headers));
                (2, Last::No, payload)
            }
            Control::Reset { stream, reason } => (3, Last::No, words(&[*stream, *reason])),
            Control::Settings => (4, Last::No, words(&[0])),
            Control::Ping(id) => (6, Last::No, words(&[*id])),
            Control::GoAway { last_taken } => (7, Last::No, words(&[*last_taken, 0])),
            Control::Headers {
                stream,
                last,
                headers,
            } => {
                let mut payload: Vec<u8> = words(&[*stream]);
                payload.extend(blocks.write(headers));
                (8, *last, payload)
            }
            Control::WindowUpdate { stream, delta } => (9, Last::No, words(&[*stream, *delta])),
            Control::Unknown(kind) => (*kind, Last::No, Vec::new()),
        };
        let mut frame = vec![0x80, VERSION as u8];
        frame.extend(kind.to_be_bytes());
        let length = u32::try_from(payload.len()).unwrap_or(LENGTH_BITS) & LENGTH_BITS;
        frame.extend((u32::from(last.flag()) << 24 | length).to_be_bytes());
        frame.extend(payload);
        frame
    }
}

fn stream(number: u32) -> Result<StreamId, FrameError> {
    match number & STREAM_BITS {
        0 => Err(FrameError::NoStream),
        stream => Ok(stream),
    }
}

/// Checks that settings are as many as they say; what they say is not acted on.
fn settings(count: u32, entries: &[u8]) -> Result<Control, FrameError> {
    let (entries, rest) = entries.as_chunks::<8>();
    match rest {
        [] if u32::try_from(entries.len()) == Ok(count) => Ok(Control::Settings),
        _ => Err(FrameError::Length(4)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = Headers> {
        let pairs = prop::collection::btree_map("[a-z]{1,9}", "[ -~]{0,20}", 0..4);
        pairs.prop_map(|pairs| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_str()));
            pairs.collect()
        })
    }

    fn control() -> impl Strategy<Value = Control> {
        let id = 1..=STREAM_BITS;
        let last = prop_oneof![Just(Last::Yes), Just(Last::No)];
        prop_oneof![
            (id.clone(), last.clone(), headers()).prop_map(|(stream, last, headers)| {
                Control::Open {
                    stream,
                    last,
                    headers,
                }
            }),
            (id.clone(), headers())
                .prop_map(|(stream, headers)| Control::Reply { stream, headers }),
            (id.clone(), any::<u32>())
                .prop_map(|(stream, reason)| Control::Reset { stream, reason }),
            Just(Control::Settings),
            any::<u32>().prop_map(Control::Ping),
            (0..=STREAM_BITS).prop_map(|last_taken| Control::GoAway { last_taken }),
            (id.clone(), last, headers()).prop_map(|(stream, last, headers)| Control::Headers {
                stream,
                last,
                headers
            }),
            (id.clone(), id).prop_map(|(stream, delta)| Control::WindowUpdate { stream, delta }),
            (100..u16::MAX).prop_map(Control::Unknown),
        ]
    }

    fn read(frame: &[u8], blocks: &mut BlockReader) -> Result<Control, FrameError> {
        let (head, payload) = frame.split_first_chunk().expect("a head");
        match Head::read(*head)? {
            Head::Control(head) => {
                assert_eq!(head.length(), payload.len());
                Control::read(head, payload, blocks)
            }
            Head::Data { .. } => panic!("a control frame"),
        }
    }

    #[test]
    fn frames_that_are_not_as_they_say_are_refused() {
        for (frame, expected) in [
            ("80020006 00000004 00000001", FrameError::Version(2)),
            ("80030006 00004001", FrameError::TooLong(0x4001)),
            ("80030006 00ffffff", FrameError::TooLong(0x00ff_ffff)),
            ("80030006 00000002 0000", FrameError::Length(6)),
            ("80030006 00000005 0000000100", FrameError::Length(6)),
            ("80030003 00000004 00000001", FrameError::Length(3)),
            ("80030003 00000008 0000000000000001", FrameError::NoStream),
            ("80030001 00000008 0000000100000000", FrameError::Length(1)),
            (
                "80030001 0000000a 00000001000000000000",
                FrameError::Block(BlockError::Length),
            ),
            ("80030004 00000004 00000001", FrameError::Length(4)),
            ("80030004 00000006 000000000000", FrameError::Length(4)),
        ] {
            let digits: String = frame.split(' ').collect();
            let (pairs, _) = digits.as_bytes().as_chunks::<2>();
            let byte = |pair: &[u8; 2]| {
                let pair = std::str::from_utf8(pair).expect("digits");
                u8::from_str_radix(pair, 16).expect("a number")
            };
            let bytes: Vec<u8> = pairs.iter().map(byte).collect();
            let (head, payload) = bytes.split_first_chunk().expect("a head");
            let found = Head::read(*head).and_then(|head| match head {
                Head::Control(head) => Control::read(head, payload, &mut BlockReader::new()),
                Head::Data { .. } => panic!("a control frame"),
            });
            assert_eq!(found, Err(expected), "{frame}");
        }
    }

    proptest! {
        #[test]
        fn control_frames_are_read_as_they_were_written(
            frames in prop::collection::vec(control(), 1..8),
        ) {
            let (mut writer, mut reader) = (BlockWriter::new(), BlockReader::new());
            for frame in frames {
                prop_assert_eq!(read(&frame.write(&mut writer), &mut reader), Ok(frame));
            }
        }

        #[test]
        fn heads_of_data_are_read_as_they_were_written(
            stream in 0..=STREAM_BITS,
            length in 0..=LENGTH_BITS,
            is_last: bool,
        ) {
            let last = if is_last { Last::Yes } else { Last::No };
            let head = Head::data(stream, last, length as usize);
            prop_assert_eq!(Head::read(head), Ok(Head::Data { stream, last, length }));
        }

        #[test]
        fn no_bytes_break_the_reader(
            head: [u8; HEAD_BYTES],
            kind in 0_u8..12,
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = Head::read(head);
            let length = payload.len() as u8;
            let head = [0x80, 3, 0, kind, head[4], 0, 0, length];
            if let Ok(Head::Control(head)) = Head::read(head) {
                let _ = Control::read(head, &payload, &mut BlockReader::new());
            }
        }
    }
}
