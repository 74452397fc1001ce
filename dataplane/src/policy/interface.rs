//! The interfaces of a policy, and the devices whose frames they share.

use std::fmt;

use super::{InterfaceId, Policy, ZoneId};

/// One interface of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfacePolicy {
    /// The name in the policy, `lan`.
    pub name: String,
    /// The kernel's name of the device that frames pass through, `eth1`.
    pub device: String,
    /// The VLAN on the device (802.1Q); 0 for its untagged frames.
    pub vlan: u16,
    /// The zone it belongs to.
    pub zone: ZoneId,
}

impl InterfacePolicy {
    /// Whether both stand for the same frames on the wire.
    pub fn is_same_link(&self, other: &InterfacePolicy) -> bool {
        (&self.device, self.vlan) == (&other.device, other.vlan)
    }
}

/// Where it is, as messages say it: `eth1`, or `VLAN 20 of eth1`.
impl fmt::Display for InterfacePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            0 => f.write_str(&self.device),
            vlan => write!(f, "VLAN {vlan} of {}", self.device),
        }
    }
}

impl Policy {
    /// The devices in the order of a worker's ports: that of their first interfaces. With each the interfaces on it.
    pub fn devices(&self) -> Vec<(&str, Vec<InterfaceId>)> {
        let mut devices: Vec<(&str, Vec<InterfaceId>)> = Vec::new();
        for (i, id) in self.interfaces.iter().zip(0..) {
            match devices.iter_mut().find(|(name, _)| *name == i.device) {
                Some((_, interfaces)) => interfaces.push(id),
                None => devices.push((&i.device, vec![id])),
            }
        }
        devices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_in_the_order_of_their_first_interfaces() {
        let interface =
            |device: &str, vlan| InterfacePolicy { device: device.into(), vlan, ..InterfacePolicy::default() };
        let interfaces = vec![interface("eth1", 20), interface("eth0", 0), interface("eth1", 0), interface("eth1", 30)];
        let policy = Policy { interfaces, ..Policy::default() };
        assert_eq!(policy.devices(), [("eth1", vec![0, 2, 3]), ("eth0", vec![1])]);
        assert!(!policy.interfaces[0].is_same_link(&policy.interfaces[2]));
        assert_eq!(policy.interfaces[0].to_string() + " " + &policy.interfaces[1].to_string(), "VLAN 20 of eth1 eth0");
    }
}
