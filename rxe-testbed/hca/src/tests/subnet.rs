// SPDX-License-Identifier: GPL-2.0
//! Two devices on one subnet: what queue pairs of one do with memory of the other.

use std::sync::mpsc::{channel, Receiver};

use anyhow::{Context, Result};

use super::driver::Driver;
use super::scene::{bytes, kind, Scene, Wish, MTU, SHORT, SIGNALLED};
use crate::subnet::Attached;
use crate::{wqe, Event, Script, Subnet, PROFILES};

/// A device, and the packets that have arrived for it.
struct Node {
    scene: Scene,
    arrived: Receiver<Event>,
    attached: Option<Attached>,
}

impl Node {
    /// The one with this LID, whose queue pairs are connected with those of `other`. Both number them alike: the first
    /// of one is connected with the second of the other.
    fn new(subnet: &Subnet, lid: u16, other: u16) -> Result<Self> {
        let mut driver = Driver::at(PROFILES[0], lid)?;
        let (events, arrived) = channel();
        let (attached, fabric) = subnet.attach(lid, events);
        driver.device.join(fabric);
        let wish = Wish {
            port: other,
            ..SHORT
        };
        Ok(Self {
            scene: Scene::on(driver, &wish)?,
            arrived,
            attached: Some(attached),
        })
    }

    /// Takes what has arrived.
    fn take(&mut self) {
        for event in self.arrived.try_iter() {
            let raised = self.scene.driver.device.handle(event);
            self.scene.driver.raised.extend(raised);
        }
        self.scene.driver.device.tick();
    }
}

fn nodes() -> Result<[Node; 2]> {
    let subnet = Subnet::new();
    Ok([Node::new(&subnet, 1, 2)?, Node::new(&subnet, 2, 1)?])
}

/// The next completion of one side of one of them, for which time goes by on both.
fn wait(nodes: &mut [Node; 2], node: usize, side: usize) -> Result<[u8; 64]> {
    for _ in 0..100_000 {
        if let Some(entry) = nodes[node].scene.poll(side)? {
            return Ok(entry);
        }
        nodes.iter_mut().for_each(Node::take);
    }
    nodes[node].scene.poll(side)?.context("no completion")
}

/// Messages, writes and reads of one with memory of the other.
fn exchange(nodes: &mut [Node; 2]) -> Result<()> {
    for (round, length) in [1, MTU, 5 * MTU + 77].into_iter().enumerate() {
        let end = length as usize;
        let sent = nodes[0].scene.fill(0, round as u8)?;
        let mut expected = nodes[1].scene.fill(1, 0xa5)?;
        let place = nodes[1].scene.at(1, 0x1003, 0x2000);
        nodes[1].scene.receive(1, &[place])?;
        let local = nodes[0].scene.at(0, 0x45, length);
        let message = [local.clone()];
        nodes[0].scene.send(0, wqe::SEND, SIGNALLED, &message)?;
        let entry = wait(nodes, 1, 1)?;
        assert_eq!((entry[63] >> 4, bytes(&entry)), (2, length as u32));
        assert_eq!(kind(&wait(nodes, 0, 0)?), (0, wqe::SEND));
        expected[0x1003..0x1003 + end].copy_from_slice(&sent[0x45..0x45 + end]);

        let write = [nodes[1].scene.remote(1, 0x4321), local];
        nodes[0].scene.send(0, wqe::WRITE, SIGNALLED, &write)?;
        assert_eq!(kind(&wait(nodes, 0, 0)?), (0, wqe::WRITE));
        expected[0x4321..0x4321 + end].copy_from_slice(&sent[0x45..0x45 + end]);
        assert_eq!(nodes[1].scene.content(1)?, expected);

        let mut own = sent;
        let read = [
            nodes[1].scene.remote(1, 0x0f01),
            nodes[0].scene.at(0, 0x4000, length),
        ];
        nodes[0].scene.send(0, wqe::READ, SIGNALLED, &read)?;
        assert_eq!(kind(&wait(nodes, 0, 0)?), (0, wqe::READ));
        own[0x4000..0x4000 + end].copy_from_slice(&expected[0x0f01..0x0f01 + end]);
        assert_eq!(nodes[0].scene.content(0)?, own);
    }
    for node in nodes {
        assert_eq!(node.scene.driver.violations(), []);
    }
    Ok(())
}

#[test]
fn devices_reach_each_others_memory() -> Result<()> {
    exchange(&mut nodes()?)
}

#[test]
fn packets_that_one_of_them_loses_come_again() -> Result<()> {
    let mut nodes = nodes()?;
    let script = Script::parse(
        r#"{"seed": 7, "rules": [{"do": "lose-packet", "one-in": 3, "times": 40}]}"#,
    )?;
    nodes[1].scene.driver.device.follow(script);
    exchange(&mut nodes)
}

#[test]
fn a_device_that_goes_is_not_waited_for() -> Result<()> {
    let mut nodes = nodes()?;
    nodes[1].attached = None;
    let message = [nodes[0].scene.at(0, 0, MTU)];
    nodes[0].scene.send(0, wqe::SEND, SIGNALLED, &message)?;
    let entry = wait(&mut nodes, 0, 0)?;
    // Too many retries.
    assert_eq!((kind(&entry), entry[0x37]), ((13, wqe::SEND), 0x15));
    Ok(())
}
