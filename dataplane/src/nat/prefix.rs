//! Prefix translation: NETMAP, and for IPv6 the checksum-neutral NPTv6 (RFC 6296).

use std::net::{IpAddr, Ipv6Addr};

use crate::packet::Ip;
use crate::policy::PrefixMap;

/// The outside address of an inside one; `None` when it is not in the inside prefix.
pub fn outward<A: Ip>(map: &PrefixMap, a: A) -> Option<A> {
    translate(map.inside, map.outside, map, a)
}

/// The inside address of an outside one; `None` when it is not in the outside prefix.
pub fn inward<A: Ip>(map: &PrefixMap, a: A) -> Option<A> {
    translate(map.outside, map.inside, map, a)
}

fn translate<A: Ip>(from: IpAddr, to: IpAddr, map: &PrefixMap, a: A) -> Option<A> {
    let (from, to) = (A::from_ip(from)?, A::from_ip(to)?);
    if a.masked(map.length) != from.masked(map.length) {
        return None;
    }
    let host = a.distance_wide(a.masked(map.length));
    let plain = to.masked(map.length).offset_wide(host);
    if !map.neutral {
        return Some(plain);
    }
    let IpAddr::V6(plain) = plain.ip() else { return Some(plain) };
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from.masked(map.length).ip(), to.masked(map.length).ip()) else {
        return None;
    };
    A::from_ip(IpAddr::V6(neutral(plain, from, to, map.length)))
}

/// Changes one word behind the prefix so that the address sums to what it did with the prefix `from`
/// (RFC 6296 3.4 and 3.5). All arithmetic is ones' complement.
fn neutral(a: Ipv6Addr, from: Ipv6Addr, to: Ipv6Addr, length: u8) -> Ipv6Addr {
    let sum = |a: Ipv6Addr| a.segments().iter().fold(0, |s, w| add(s, *w));
    let adjustment = add(sum(from), !sum(to));
    let mut words = a.segments();
    // A prefix of up to 48 bits leaves the subnet word; behind a longer one the first word of the interface
    // identifier is taken that is not all ones: 0xffff is the one value the mapping could not give back.
    let behind = usize::from(length).div_ceil(16).max(4);
    let at = if length <= 48 { Some(3) } else { (behind..8).find(|i| words[*i] != 0xffff) };
    if let Some(at) = at {
        let w = add(words[at], adjustment);
        words[at] = if w == 0xffff { 0 } else { w };
    }
    Ipv6Addr::from(words)
}

fn add(a: u16, b: u16) -> u16 {
    let (s, carry) = a.overflowing_add(b);
    s + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::Address;
    use crate::packet::checksum::fold;
    use crate::packet::{V4, V6};

    #[test]
    fn the_example_of_rfc_6296() {
        // Section 3.2: FD01:0203:0405::/48 and 2001:0DB8:0001::/48.
        let map = PrefixMap {
            inside: "fd01:203:405::".parse().unwrap(),
            outside: "2001:db8:1::".parse().unwrap(),
            length: 48,
            neutral: true,
        };
        let v6 = |s: &str| V6::from_ip(s.parse().unwrap()).unwrap();
        let out = outward(&map, v6("fd01:203:405:1::1234")).unwrap();
        assert_eq!(out, v6("2001:db8:1:d550::1234"));
        assert_eq!(inward(&map, out), Some(v6("fd01:203:405:1::1234")));
        assert_eq!(outward(&map, v6("fd01:203:406:1::1234")), None);
    }

    #[test]
    fn netmap() {
        let map = PrefixMap {
            inside: "10.1.0.0".parse().unwrap(),
            outside: "203.0.112.0".parse().unwrap(),
            length: 22,
            neutral: false,
        };
        let v4 = |s: &str| V4::from_ip(s.parse().unwrap()).unwrap();
        assert_eq!(outward(&map, v4("10.1.2.77")), Some(v4("203.0.114.77")));
        assert_eq!(inward(&map, v4("203.0.115.255")), Some(v4("10.1.3.255")));
        assert_eq!(inward(&map, v4("203.0.116.0")), None);
    }

    proptest! {
        #[test]
        fn back_is_the_identity_and_the_checksum_stays(
            inside: u128, outside: u128, host: u128, length in 1u8..=112,
        ) {
            let (inside, outside) = (V6::from_bits(inside).masked(length), V6::from_bits(outside).masked(length));
            let a = V6::from_bits(inside.bits() | host & u128::MAX >> length);
            let map = PrefixMap { inside: inside.ip(), outside: outside.ip(), length, neutral: true };
            // The word that is changed must not be the excluded value.
            let at = if length <= 48 { 3 } else { usize::from(length).div_ceil(16).max(4) };
            let IpAddr::V6(words) = a.ip() else { unreachable!() };
            prop_assume!(words.segments()[at] != 0xffff && words.segments()[at] != 0);
            let out = outward(&map, a).unwrap();
            prop_assert_eq!(fold(out.sum()) % 0xffff, fold(a.sum()) % 0xffff);
            let IpAddr::V6(moved) = out.ip() else { unreachable!() };
            prop_assert_eq!(out.masked(length), outside);
            prop_assume!(moved.segments()[at] != 0);
            prop_assert_eq!(inward(&map, out), Some(a));
        }
    }
}
