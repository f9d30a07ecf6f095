// SPDX-License-Identifier: GPL-2.0
//! On-demand paging: accesses that lack memory, a driver that is asked for it, and one that does not do as it should.

mod adversary;
mod answers;
mod chance;
mod parts;
mod waits;

use anyhow::{ensure, Context, Result};

use super::driver::{Driver, Ring};
use super::scene::{kind, segment, End, Scene, Wish, MEMORY, SIGNALLED, USUAL};
use crate::layout::{
    create_mkey_in, create_mkey_out, mem_page_fault_info, mkc, page_fault_resume_in,
    trans_page_fault_info, Field,
};
use crate::trace::Rule;
use crate::{wqe, Profile};

/// Where a region begins, and how many pages it has: those of a side's memory.
const START: u64 = 0x7000_0000;
const PAGE: u64 = 0x1000;
const PAGES: u64 = MEMORY / PAGE;

const READ_ONLY: u64 = 1;
const READ_WRITE: u64 = 3;

/// A page fault as an event tells it.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: u8,
    data: [u8; 28],
}

impl Fault {
    fn word(&self, at: usize) -> u32 {
        let bytes = self.data[at..at + 4].iter();
        bytes.fold(0, |word, byte| (word << 8) | u32::from(*byte))
    }

    fn token(&self) -> u64 {
        u64::from(match self.kind {
            0 => self.word(12),
            1 => self.word(24) & 0xff_ffff,
            _ => self.word(8),
        })
    }

    /// Of whom or what, and what kind of thing that is.
    fn source(&self) -> (u32, u32) {
        (self.word(24) >> 24, self.word(24) & 0xff_ffff)
    }

    fn is_last(&self) -> bool {
        self.kind != 2 || self.data[0] & 0x80 != 0
    }
}

/// Two sides, each with a region whose pages come and go.
struct Stage {
    scene: Scene,
    /// Changes keys.
    keeper: End,
    faults: Ring,
    keys: [u32; 2],
}

impl Stage {
    fn new() -> Result<Self> {
        Self::of("cx5-ib")
    }

    fn of(profile: &str) -> Result<Self> {
        Self::with(profile, &USUAL)
    }

    fn with(profile: &str, wish: &Wish) -> Result<Self> {
        let profile = Profile::named(profile).context("no such profile")?;
        let mut scene = Scene::on(Driver::of(profile)?, wish)?;
        let faults = scene.driver.event_queue(scene.page, 6, 1 << 0x0c)?;
        let keeper = scene.keeper()?;
        let mut stage = Self {
            scene,
            keeper,
            faults,
            keys: [0; 2],
        };
        for side in 0..2 {
            stage.keys[side] = stage.table(1, START, MEMORY, 12)?;
            stage.set(side, 0..PAGES, 0)?;
        }
        Ok(stage)
    }

    /// Makes a key that requests change, with nothing in it.
    fn table(&mut self, mode: u64, start: u64, length: u64, log_page: u64) -> Result<u32> {
        let mut input = vec![0; create_mkey_in::BYTES];
        create_mkey_in::PG_ACCESS.set(&mut input, 1_u64);
        let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
        for one in [mkc::UMR_EN, mkc::LR, mkc::LW, mkc::RR, mkc::RW, mkc::A] {
            one.set(context, 1_u64);
        }
        mkc::ACCESS_MODE_1_0.set(context, mode);
        mkc::QPN.set(context, 0xff_ffff_u64);
        mkc::PD.set(context, self.scene.domain);
        mkc::START_ADDR.set(context, start);
        mkc::LEN.set(context, length);
        mkc::LOG_PAGE_SIZE.set(context, log_page);
        mkc::TRANSLATIONS_OCTWORD_SIZE.set(context, 1_u64 << 22);
        let driver = &mut self.scene.driver;
        let number = driver.number(0x200, &input, create_mkey_out::MKEY_INDEX)?;
        Ok(number << 8)
    }

    /// Changes a key: its translation from an octword on, and a field.
    fn change(
        &mut self,
        key: u32,
        octword: u64,
        entries: &[u8],
        field: Option<(u64, Field, u64)>,
    ) -> Result<()> {
        let mut control = vec![0; 48];
        control[0] = 0x90;
        control[4..6].copy_from_slice(&((entries.len() / 16) as u16).to_be_bytes());
        control[6..8].copy_from_slice(&(octword as u16).to_be_bytes());
        control[16..18].copy_from_slice(&((octword >> 32) as u16).to_be_bytes());
        control[18..20].copy_from_slice(&((octword >> 16) as u16).to_be_bytes());
        let mut context = vec![0; 64];
        if let Some((bit, field, value)) = field {
            control[8..16].copy_from_slice(&(1_u64 << bit).to_be_bytes());
            field.set(&mut context, value);
        }
        let end = &mut self.keeper;
        let body = [control, context, entries.to_vec()].concat();
        let units = 1 + body.len().div_ceil(16) as u8;
        let counter = end.sends.to_be_bytes();
        let pair = end.number.to_be_bytes();
        let mut request = vec![0, counter[0], counter[1], wqe::UPDATE];
        request.extend([pair[1], pair[2], pair[3], units, 0, 0, 0, SIGNALLED]);
        request.extend(key.to_be_bytes());
        request.extend(body);
        request.resize(request.len().next_multiple_of(64), 0);
        let driver = &mut self.scene.driver;
        for piece in request.chunks(64) {
            driver.write(end.next_send(), piece)?;
            end.sends = end.sends.wrapping_add(1);
        }
        driver.write(end.record + 4, &u32::from(end.sends).to_be_bytes())?;
        let mut bell = [0; 8];
        bell[4..].copy_from_slice(&(end.number << 8).to_be_bytes());
        driver.ring(self.scene.page, 0x800, &bell);
        let mut entry = driver.next(&mut end.ring)?;
        for _ in 0..100_000 {
            if entry.is_some() {
                break;
            }
            driver.device.tick();
            entry = driver.next(&mut end.ring)?;
        }
        let entry = entry.context("no change")?;
        driver.write(end.ring.record, &end.ring.consumed.to_be_bytes())?;
        ensure!(kind(&entry) == (0, wqe::UPDATE), "{entry:x?}");
        Ok(())
    }

    /// Gives pages of a region these rights; two at least, as there are two in an octword.
    fn set(&mut self, side: usize, pages: std::ops::Range<u64>, rights: u64) -> Result<()> {
        let memory = self.scene.memory[side];
        let (first, end) = (pages.start & !1, pages.end.next_multiple_of(2));
        let entry = |page: u64| match rights {
            0 => 0,
            rights => (memory + page * PAGE) | rights,
        };
        let entries: Vec<u8> = (first..end)
            .flat_map(|page| entry(page).to_be_bytes())
            .collect();
        self.change(self.keys[side], first / 2, &entries, None)
    }

    /// A segment for a side's region, and one that names it for the other end.
    fn at(&self, side: usize, offset: u64, length: u64) -> Vec<u8> {
        segment(self.keys[side], START + offset, length)
    }

    fn remote(&self, side: usize, offset: u64) -> Vec<u8> {
        let mut bytes = (START + offset).to_be_bytes().to_vec();
        bytes.extend(self.keys[side].to_be_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    /// The next page fault, for which time goes by.
    fn fault(&mut self) -> Result<Fault> {
        for _ in 0..10_000 {
            if let Some(fault) = self.poll_fault()? {
                return Ok(fault);
            }
            self.scene.driver.device.tick();
        }
        anyhow::bail!("no page fault")
    }

    fn poll_fault(&mut self) -> Result<Option<Fault>> {
        let Some(entry) = self.scene.driver.next(&mut self.faults)? else {
            return Ok(None);
        };
        ensure!(entry[1] == 0x0c, "{entry:x?}");
        let mut data = [0; 28];
        data.copy_from_slice(&entry[32..60]);
        let word = (self.faults.number << 24) | (self.faults.consumed & 0xff_ffff);
        let page = self.scene.page;
        self.scene.driver.ring(page, 0x48, &word.to_be_bytes());
        let kind = entry[3];
        Ok(Some(Fault { kind, data }))
    }

    /// Tells the device that a fault is dealt with. Gives the command's status.
    fn resume(&mut self, fault: Fault, error: bool) -> Result<u64> {
        self.resume_token(fault.kind, fault.token(), error)
    }

    fn resume_token(&mut self, kind: u8, token: u64, error: bool) -> Result<u64> {
        let mut input = vec![0; page_fault_resume_in::BYTES];
        let info = page_fault_resume_in::PAGE_FAULT_INFO.of_mut(&mut input);
        match kind {
            2 => {
                mem_page_fault_info::FAULT_TOKEN_31_0.set(info, token);
                mem_page_fault_info::ERROR.set(info, u64::from(error));
            }
            _ => {
                trans_page_fault_info::FAULT_TOKEN.set(info, token);
                trans_page_fault_info::ERROR.set(info, u64::from(error));
            }
        }
        let answer = self.scene.driver.try_command(0x204, &input, 16)?;
        Ok(answer.err().unwrap_or(0))
    }

    /// Nothing has ended, and nothing new is lacked.
    fn quiet(&mut self) -> Result<()> {
        for _ in 0..200 {
            self.scene.driver.device.tick();
        }
        for side in 0..2 {
            ensure!(
                self.scene.poll(side)?.is_none(),
                "side {side} has a completion"
            );
        }
        ensure!(self.poll_fault()?.is_none(), "there is a page fault");
        Ok(())
    }

    fn done(&mut self, side: usize, what: (u8, u8)) -> Result<()> {
        let entry = self.scene.wait(side)?;
        ensure!(kind(&entry) == what, "{entry:x?}");
        Ok(())
    }

    fn no_violations(&self) {
        assert_eq!(self.scene.driver.violations(), []);
    }

    fn violated(&self, rule: Rule) {
        let rules: Vec<Rule> = self
            .scene
            .driver
            .violations()
            .iter()
            .map(|one| one.rule)
            .collect();
        assert_eq!(rules, [rule]);
    }
}
