// SPDX-License-Identifier: GPL-2.0
//! On which processors a run happens, and from which NUMA node its memory comes: next to the device, unless it is told
//! otherwise, and of the processors there those that this process was given (by taskset, or by a container).
//!
//! Both ends choose for themselves: on two machines the server has these options, too.

use std::{
    collections::BTreeSet,
    fs, io, mem,
    path::{Path, PathBuf},
};

use anyhow::{bail, ensure, Context as _, Result};

use super::sysfs::{list, numbers, read};

/// Where to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On the device's NUMA node.
    #[default]
    Near,
    /// On these processors.
    Cpus(BTreeSet<u32>),
    /// On this NUMA node, with all memory.
    Node(u32),
    /// Where the kernel likes.
    Free,
}

impl Placement {
    /// Those of a list as `0-3,8`.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn of_cpus(list: &str) -> Result<BTreeSet<u32>, String> {
        let is_part = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<u32>().ok();
            number(first).zip(number(last)).is_some_and(|(a, b)| a <= b)
        };
        match list.split(',').all(is_part) {
            true => Ok(numbers(list)),
            false => Err("not a list of processors as 0-3,8".into()),
        }
    }

    /// Brings this process, with all of its threads to come, to where it is to be for `device`, and says where.
    ///
    /// # Errors
    ///
    /// If there is no such processor or node, or this process may not be there.
    pub fn take(&self, device: &str) -> Result<String> {
        let topology = Topology::of_machine();
        let choice = self.choose(&topology, device, device_node(device))?;
        if let Some(cpus) = &choice.cpus {
            run_on(cpus).with_context(|| format!("running on processors {}", list(cpus)))?;
        }
        if let Some((node, bound)) = choice.node {
            let policy = if bound { Policy::Bind } else { Policy::Prefer };
            allocate_from(node, policy).with_context(|| format!("memory of NUMA node {node}"))?;
        }
        Ok(choice.told)
    }

    /// What that means on this machine.
    fn choose(&self, machine: &Topology, device: &str, near: Option<u32>) -> Result<Choice> {
        let several = machine.nodes.len() > 1;
        match self {
            Self::Free => Ok(Choice::nowhere("not pinned, as --no-pin asks")),
            Self::Cpus(cpus) => {
                let none: BTreeSet<u32> = cpus.difference(&machine.cpus).copied().collect();
                if !none.is_empty() {
                    bail!(
                        "--cpu {}: the processors that are online are {}",
                        list(&none),
                        list(&machine.cpus)
                    );
                }
                Ok(Choice {
                    told: format!("on processors {}, as --cpu asks", list(cpus)),
                    cpus: Some(cpus.clone()),
                    node: None,
                })
            }
            Self::Node(node) => {
                let cpus = machine.on(*node).with_context(|| {
                    let nodes: BTreeSet<u32> =
                        machine.nodes.iter().map(|(node, _)| *node).collect();
                    format!("--numa {node}: the NUMA nodes are {}", list(&nodes))
                })?;
                ensure!(!cpus.is_empty(), "--numa {node}: it has no processors");
                let given = machine.given(cpus);
                ensure!(
                    !given.is_empty(),
                    "--numa {node}: it has processors {}, and this process was given {}",
                    list(cpus),
                    list(&machine.given)
                );
                Ok(Choice {
                    told: format!(
                        "on processors {} and memory of NUMA node {node}, as --numa asks",
                        list(&given)
                    ),
                    cpus: Some(given),
                    node: Some((*node, true)),
                })
            }
            Self::Near if !several => Ok(Choice::nowhere(&format!(
                "not pinned: all processors are as near to {device}"
            ))),
            Self::Near => match near {
                None => Ok(Choice::nowhere(&format!(
                    "not pinned: {device} does not say which NUMA node it is at; --numa does"
                ))),
                Some(node) => match machine.on(node).filter(|cpus| !cpus.is_empty()) {
                    None => Ok(Choice::nowhere(&format!(
                        "not pinned: NUMA node {node}, where {device} is, has no processors"
                    ))),
                    Some(cpus) => Ok(machine.near(device, node, cpus)),
                },
            },
        }
    }
}

/// What to do, and how to say it.
struct Choice {
    cpus: Option<BTreeSet<u32>>,
    /// And whether memory may come from there only.
    node: Option<(u32, bool)>,
    told: String,
}

impl Choice {
    fn nowhere(told: &str) -> Self {
        Self {
            cpus: None,
            node: None,
            told: told.into(),
        }
    }
}

/// The processors that are online, those of them that this process was given, and those of each NUMA node.
struct Topology {
    cpus: BTreeSet<u32>,
    given: BTreeSet<u32>,
    nodes: Vec<(u32, BTreeSet<u32>)>,
}

impl Topology {
    fn of_machine() -> Self {
        const SYSTEM: &str = "/sys/devices/system";
        let set = |path: String| numbers(&read(path).unwrap_or_default());
        let nodes = set(format!("{SYSTEM}/node/online"));
        let of = |node| (node, set(format!("{SYSTEM}/node/node{node}/cpulist")));
        let cpus = set(format!("{SYSTEM}/cpu/online"));
        Self {
            given: given().unwrap_or_else(|| cpus.clone()),
            cpus,
            nodes: nodes.into_iter().map(of).collect(),
        }
    }

    /// Those of `cpus` that this process was given.
    fn given(&self, cpus: &BTreeSet<u32>) -> BTreeSet<u32> {
        cpus.intersection(&self.given).copied().collect()
    }

    /// Next to `device`, as far as this process was given processors there.
    fn near(&self, device: &str, node: u32, cpus: &BTreeSet<u32>) -> Choice {
        let given = self.given(cpus);
        if given.is_empty() {
            return Choice::nowhere(&format!(
                "not pinned: of NUMA node {node}, where {device} is, this process was given no processor"
            ));
        }
        let of_all = match given == *cpus {
            true => "",
            false => " (all of the node's that this process was given)",
        };
        Choice {
            told: format!(
                "on processors {}{of_all} and memory of NUMA node {node}, where {device} is",
                list(&given)
            ),
            cpus: Some(given),
            node: Some((node, false)),
        }
    }

    fn on(&self, node: u32) -> Option<&BTreeSet<u32>> {
        let mut nodes = self.nodes.iter();
        nodes.find(|(this, _)| *this == node).map(|(_, cpus)| cpus)
    }
}

/// The NUMA node of `device`; of one in software that of the network device below it.
pub(super) fn device_node(device: &str) -> Option<u32> {
    let sysfs = Path::new("/sys/class/infiniband").join(device);
    let below = fs::read_to_string(sysfs.join("parent")).ok();
    let below = below.map(|name| Path::new("/sys/class/net").join(name.trim()));
    let paths: [Option<PathBuf>; 2] = [Some(sysfs), below];
    // -1 is that nobody knows.
    let node = |path: PathBuf| read(path.join("device/numa_node"))?.parse().ok();
    paths.into_iter().flatten().find_map(node)
}

/// The processors that this process may run on, if they can be told.
fn given() -> Option<BTreeSet<u32>> {
    // SAFETY: zeroes are an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set outlives the call.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    // SAFETY: the number is one of the set's.
    let has = |cpu: &u32| unsafe { libc::CPU_ISSET(*cpu as usize, &set) };
    let all = 0..libc::CPU_SETSIZE as u32;
    (result == 0).then(|| all.filter(has).collect())
}

fn run_on(cpus: &BTreeSet<u32>) -> Result<()> {
    // SAFETY: zeroes are an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &cpu in cpus {
        let cpu = cpu as usize;
        ensure!(
            cpu < libc::CPU_SETSIZE as usize,
            "processor {cpu} is beyond what can be asked for"
        );
        // SAFETY: the number is one of the set's.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set outlives the call.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}

/// How memory is tied to a node.
#[derive(Clone, Copy)]
enum Policy {
    /// From elsewhere if there is none.
    Prefer = libc::MPOL_PREFERRED as isize,
    /// From nowhere else.
    Bind = libc::MPOL_BIND as isize,
}

fn allocate_from(node: u32, policy: Policy) -> Result<()> {
    const NODES: usize = 1024;
    let mut mask = [0u64; NODES / 64];
    let word = mask
        .get_mut(node as usize / 64)
        .context("beyond what can be asked for")?;
    *word |= 1 << (node % 64);
    // SAFETY: the mask outlives the call, and has as many bits as is said; the kernel ignores one more.
    let result =
        unsafe { libc::syscall(libc::SYS_set_mempolicy, policy as i32, mask.as_ptr(), NODES) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_nodes() -> Topology {
        let (low, high) = (BTreeSet::from([0, 1]), BTreeSet::from([2, 3]));
        Topology {
            cpus: (0..4).collect(),
            given: (0..4).collect(),
            nodes: vec![(0, low), (1, high), (2, BTreeSet::new())],
        }
    }

    fn chosen(placement: &Placement, near: Option<u32>) -> Choice {
        placement.choose(&two_nodes(), "mlx5_0", near).unwrap()
    }

    #[test]
    fn the_device_is_near_unless_nobody_knows_where_it_is() {
        let choice = chosen(&Placement::Near, Some(1));
        assert_eq!(choice.cpus, Some(BTreeSet::from([2, 3])));
        assert_eq!(choice.node, Some((1, false)));
        assert!(choice.told.contains("2-3") && choice.told.contains("mlx5_0"));
        for near in [None, Some(2), Some(7)] {
            let choice = chosen(&Placement::Near, near);
            assert!(choice.cpus.is_none() && choice.told.starts_with("not pinned: "));
        }
        let one = Topology {
            nodes: two_nodes().nodes[..1].to_vec(),
            ..two_nodes()
        };
        let choice = Placement::Near.choose(&one, "mlx5_0", Some(0)).unwrap();
        assert!(choice.cpus.is_none() && choice.node.is_none());
    }

    #[test]
    fn nobody_is_moved_off_the_processors_that_it_was_given() {
        let given = |cpus: &[u32]| Topology {
            given: cpus.iter().copied().collect(),
            ..two_nodes()
        };
        let near = |cpus: &[u32]| {
            let choice = Placement::Near.choose(&given(cpus), "mlx5_0", Some(1));
            choice.unwrap()
        };
        let choice = near(&[0, 3]);
        assert_eq!(choice.cpus, Some(BTreeSet::from([3])));
        assert!(choice
            .told
            .starts_with("on processors 3 (all of the node's"));
        let choice = near(&[0, 1]);
        assert!(choice.cpus.is_none() && choice.told.contains("given no processor"));
        let node = |cpus: &[u32]| Placement::Node(1).choose(&given(cpus), "mlx5_0", None);
        assert_eq!(node(&[2]).unwrap().cpus, Some(BTreeSet::from([2])));
        let why = node(&[0]).err().unwrap().to_string();
        assert_eq!(
            why,
            "--numa 1: it has processors 2-3, and this process was given 0"
        );
    }

    #[test]
    fn this_process_was_given_some_processor() {
        assert!(!given().unwrap().is_empty());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let refused = |placement: Placement| {
            let choice = placement.choose(&two_nodes(), "mlx5_0", None);
            choice.err().unwrap().to_string()
        };
        let cpus = Placement::of_cpus("3-5").unwrap();
        let why = refused(Placement::Cpus(cpus));
        assert_eq!(why, "--cpu 4-5: the processors that are online are 0-3");
        assert_eq!(
            refused(Placement::Node(7)),
            "--numa 7: the NUMA nodes are 0-2"
        );
        assert!(refused(Placement::Node(2)).contains("no processors"));
        let choice = chosen(&Placement::Node(0), None);
        assert_eq!(choice.node, Some((0, true)));
    }

    #[test]
    fn lists_are_read_and_written() {
        let cpus = Placement::of_cpus("8,0-3").unwrap();
        assert_eq!(list(&cpus), "0-3,8");
        for wrong in ["", "a", "3-1", "1,,2", "-1"] {
            assert!(Placement::of_cpus(wrong).is_err(), "{wrong}");
        }
    }
}
