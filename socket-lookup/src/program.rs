//! The program that the kernel runs for each lookup, as instructions. Pure.
//!
//! In words:
//!
//! 1. Look up address, port and protocol in the table; if they are there, the entry names the socket.
//! 2. Else, in one of the ranges: refuse.
//! 3. Else look up the port with the unspecified address of the family, which stands for all others.
//! 4. Else it is none of ours: the kernel goes on as if there were no program.
//!
//! An entry whose socket is gone refuses, and so does one whose socket the kernel does not take; either is
//! counted in a map.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The bytes of a key: an address of IPv6, in which one of IPv4 is a mapped one, then the port and the
/// protocol in the machine's order.
pub(crate) const KEY_BYTES: usize = 20;

/// One instruction, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    /// The destination in the lower half, the source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// The parts of codes: class, size or operation, source.
const LOAD_WORD: u8 = 0x61;
const LOAD_IMMEDIATE: u8 = 0x18;
const STORE_WORD: u8 = 0x63;
const STORE_IMMEDIATE_WORD: u8 = 0x62;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const OR: u8 = 0x4f;
const SHIFT_LEFT_IMMEDIATE: u8 = 0x67;
const AND_IMMEDIATE_32: u8 = 0x54;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_EQUAL_32: u8 = 0x56;
/// Adds a register to eight bytes of memory, as one step; the operation is the immediate, 0 for addition.
const ATOMIC: u8 = 0xdb;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// As the source of [`LOAD_IMMEDIATE`]: the immediate is a descriptor of a map.
const OF_MAP: u8 = 1;

const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

const SK_DROP: i32 = 0;
const SK_PASS: i32 = 1;

// Offsets in `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;
const LOCAL_PORT: i16 = 60;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

// Where the program keeps what it builds, from the end of its stack.
const KEY: i16 = -24;
const KEY_PORT: i16 = KEY + 16;
const SLOT: i16 = -28;
const COUNTED: i16 = -32;

/// What is counted where, by its place in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Nobody was in the socket's place.
    NoSocket = 0,
    /// The kernel did not take the socket for what was looked for.
    NotAssigned = 1,
}

/// How many are counted.
pub(crate) const COUNTS: u32 = 2;

const STACK: u8 = 10;
const CONTEXT: u8 = 6;
const SOCKET: u8 = 7;
const ASSIGNED: u8 = 8;

/// A place in the program that jumps lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    V4,
    Look,
    Found,
    WildcardV4,
    NoSocket,
    NotAssigned,
    Count,
    Pass,
    Drop,
    /// The range after the one of this number.
    After(usize),
}

/// Instructions whose jumps have no distances yet.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

/// Returns the key of an address and port.
pub(crate) fn key(ip: IpAddr, port: u16, protocol: u8) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..16].copy_from_slice(&mapped(ip).octets());
    let rest = u32::from(port) | u32::from(protocol) << 16;
    key[16..].copy_from_slice(&rest.to_ne_bytes());
    key
}

/// Assembles the program. `table`, `sockets` and `counts` are the descriptors of its maps.
pub(crate) fn assemble(
    ranges: &[IpNet],
    table: i32,
    sockets: i32,
    counts: i32,
) -> Vec<Instruction> {
    let mut program = Assembler::default();
    program.build_key();
    program.label(Label::Look);
    program.look_up(table, KEY);
    program.jump(JUMP_UNLESS_EQUAL, 0, 0, Label::Found);
    for (number, range) in ranges.iter().enumerate() {
        program.drop_within(number, *range);
    }
    program.widen_key();
    program.look_up(table, KEY);
    program.jump(JUMP_IF_EQUAL, 0, 0, Label::Pass);
    program.choose_socket(sockets);
    program.label(Label::Pass);
    program.finish(SK_PASS);
    program.count(counts);
    program.label(Label::Drop);
    program.finish(SK_DROP);
    program.link()
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Returns the words of an address and of the mask of a range, as they lie in memory.
fn words(range: IpNet) -> [(i32, i32); 4] {
    let bits = match range {
        IpNet::V4(range) => 96 + range.prefix_len(),
        IpNet::V6(range) => range.prefix_len(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    let address = u128::from(mapped(range.addr())) & mask;
    let (address, mask) = (address.to_be_bytes(), mask.to_be_bytes());
    let word = |bytes: &[u8; 16], number: usize| {
        let bytes = std::array::from_fn(|byte| bytes[4 * number + byte]);
        i32::from_ne_bytes(bytes)
    };
    std::array::from_fn(|number| (word(&address, number), word(&mask, number)))
}

impl Assembler {
    /// Puts the key of what is looked for on the stack.
    fn build_key(&mut self) {
        self.push(MOVE, CONTEXT, 1, 0, 0);
        self.push(LOAD_WORD, 1, CONTEXT, LOCAL_PORT, 0);
        self.push(LOAD_WORD, 2, CONTEXT, PROTOCOL, 0);
        self.push(SHIFT_LEFT_IMMEDIATE, 2, 0, 0, 16);
        self.push(OR, 1, 2, 0, 0);
        self.push(STORE_WORD, STACK, 1, KEY_PORT, 0);
        self.push(LOAD_WORD, 3, CONTEXT, FAMILY, 0);
        self.jump(JUMP_IF_EQUAL, 3, AF_INET, Label::V4);
        self.jump(JUMP_UNLESS_EQUAL, 3, AF_INET6, Label::Pass);
        for word in 0..4 {
            self.push(LOAD_WORD, 1, CONTEXT, LOCAL_IP6 + 4 * word, 0);
            self.push(STORE_WORD, STACK, 1, KEY + 4 * word, 0);
        }
        self.jump(JUMP, 0, 0, Label::Look);
        self.label(Label::V4);
        let mapped = i32::from_ne_bytes([0, 0, 0xff, 0xff]);
        for (offset, word) in [(0, 0), (4, 0), (8, mapped)] {
            self.push(STORE_IMMEDIATE_WORD, STACK, 0, KEY + offset, word);
        }
        self.push(LOAD_WORD, 1, CONTEXT, LOCAL_IP4, 0);
        self.push(STORE_WORD, STACK, 1, KEY + 12, 0);
    }

    /// Makes the key's address the unspecified one of its family.
    fn widen_key(&mut self) {
        self.push(LOAD_WORD, 3, CONTEXT, FAMILY, 0);
        self.jump(JUMP_IF_EQUAL, 3, AF_INET, Label::WildcardV4);
        for word in 0..3 {
            self.push(STORE_IMMEDIATE_WORD, STACK, 0, KEY + 4 * word, 0);
        }
        self.label(Label::WildcardV4);
        self.push(STORE_IMMEDIATE_WORD, STACK, 0, KEY + 12, 0);
    }

    /// Refuses what lies in a range.
    fn drop_within(&mut self, number: usize, range: IpNet) {
        for (word, (address, mask)) in (0..).zip(words(range)) {
            if mask == 0 {
                continue;
            }
            self.push(LOAD_WORD, 1, STACK, KEY + 4 * word, 0);
            if mask != -1 {
                self.push(AND_IMMEDIATE_32, 1, 0, 0, mask);
            }
            self.jump(JUMP_UNLESS_EQUAL_32, 1, address, Label::After(number));
        }
        self.jump(JUMP, 0, 0, Label::Drop);
        self.label(Label::After(number));
    }

    /// Looks up in a map what lies on the stack; the result is in register 0.
    fn look_up(&mut self, map: i32, key: i16) {
        self.push(LOAD_IMMEDIATE, 1, OF_MAP, 0, map);
        self.push(0, 0, 0, 0, 0);
        self.push(MOVE, 2, STACK, 0, 0);
        self.push(ADD_IMMEDIATE, 2, 0, 0, key.into());
        self.push(CALL, 0, 0, 0, MAP_LOOKUP_ELEM);
    }

    /// Gives what is looked for to the socket of the entry that register 0 points to.
    fn choose_socket(&mut self, sockets: i32) {
        self.label(Label::Found);
        self.push(LOAD_WORD, 1, 0, 0, 0);
        self.push(STORE_WORD, STACK, 1, SLOT, 0);
        self.look_up(sockets, SLOT);
        self.jump(JUMP_IF_EQUAL, 0, 0, Label::NoSocket);
        self.push(MOVE, SOCKET, 0, 0, 0);
        self.push(MOVE, 1, CONTEXT, 0, 0);
        self.push(MOVE, 2, SOCKET, 0, 0);
        self.push(MOVE_IMMEDIATE, 3, 0, 0, 0);
        self.push(CALL, 0, 0, 0, SK_ASSIGN);
        self.push(MOVE, ASSIGNED, 0, 0, 0);
        self.push(MOVE, 1, SOCKET, 0, 0);
        self.push(CALL, 0, 0, 0, SK_RELEASE);
        self.jump(JUMP_UNLESS_EQUAL, ASSIGNED, 0, Label::NotAssigned);
    }

    /// Counts why a socket was not chosen; what was looked for is refused after that.
    fn count(&mut self, counts: i32) {
        self.label(Label::NoSocket);
        let number = Counted::NoSocket as i32;
        self.push(STORE_IMMEDIATE_WORD, STACK, 0, COUNTED, number);
        self.jump(JUMP, 0, 0, Label::Count);
        self.label(Label::NotAssigned);
        let number = Counted::NotAssigned as i32;
        self.push(STORE_IMMEDIATE_WORD, STACK, 0, COUNTED, number);
        self.label(Label::Count);
        self.look_up(counts, COUNTED);
        self.jump(JUMP_IF_EQUAL, 0, 0, Label::Drop);
        self.push(MOVE_IMMEDIATE, 1, 0, 0, 1);
        self.push(ATOMIC, 0, 1, 0, 0);
    }

    fn finish(&mut self, verdict: i32) {
        self.push(MOVE_IMMEDIATE, 0, 0, 0, verdict);
        self.push(EXIT, 0, 0, 0, 0);
    }

    fn push(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction {
            code,
            registers: to | from << 4,
            offset,
            immediate,
        });
    }

    fn jump(&mut self, code: u8, register: u8, immediate: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(code, register, 0, 0, immediate);
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.instructions.len()));
    }

    fn link(mut self) -> Vec<Instruction> {
        for (from, label) in self.jumps {
            let mut places = self.labels.iter().filter(|(known, _)| *known == label);
            let (_, to) = places.next().expect("every label of a jump is placed");
            let distance = i16::try_from(to - from - 1);
            self.instructions[from].offset = distance.expect("the ranges are few");
        }
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_compared_word_by_word_in_the_order_of_the_wire() {
        let words = words("10.244.3.0/20".parse().unwrap());
        let wire = |bytes| i32::from_ne_bytes(bytes);
        assert_eq!(words[0], (0, -1));
        assert_eq!(words[2], (wire([0, 0, 255, 255]), -1));
        let (address, mask) = (wire([10, 244, 0, 0]), wire([255, 255, 240, 0]));
        assert_eq!(words[3], (address, mask));
        let all = super::words("::/0".parse().unwrap());
        assert_eq!(all, [(0, 0); 4]);
    }

    #[test]
    fn jumps_lead_forward_and_end_within_the_program() {
        let ranges = ["10.96.0.0/16", "fd00:10::/108", "0.0.0.0/0"];
        let ranges = ranges.map(|range| range.parse().unwrap());
        let program = assemble(&ranges, 3, 4, 5);
        for (place, instruction) in program.iter().enumerate() {
            // The classes of jumps, which calls and the end of the program are of, too.
            let is_of_class = matches!(instruction.code & 0x07, 0x05 | 0x06);
            if is_of_class && ![CALL, EXIT].contains(&instruction.code) {
                let to = place + 1 + usize::try_from(instruction.offset).expect("forward");
                assert!(to < program.len(), "{place} leads to {to}");
            }
        }
        assert_eq!(program.last().map(|last| last.code), Some(EXIT));
    }
}
