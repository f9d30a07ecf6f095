// SPDX-License-Identifier: GPL-2.0

//! The table, its mappings and a device, which must have the same pages at any time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::PMD_PAGES;
use crate::collect::Collect;
use crate::pfn::Memory;
use crate::pfn_array::HmmPfn;
use crate::xlt::pmds_in;

/// Begins and ends inside of a PMD, with one whole PMD in between.
const RANGE: PageRange = PageRange::new(PageIndex::new(500), PageIndex::new(1540));
/// The device writes its entries in blocks of so many.
const BLOCK: u64 = 8;

type TestXlt = DeviceXlt<Vec<Slot>, Vec<Pages<Vec<Slot>>>, Mapped>;

/// What both sides have, by page.
#[derive(Default)]
struct World {
    device: BTreeMap<u64, Translation>,
    mapped: BTreeMap<u64, Run>,
    dirty: Vec<u64>,
    held: BTreeMap<u64, u32>,
    /// After so many runs, none can be mapped.
    room: Option<u32>,
    zap_fails: bool,
    cut_off_fails: bool,
    /// `None`: it works.
    enter_fails: Option<FaultError>,
    cut_offs: u32,
}

type Shared = Rc<RefCell<World>>;

fn addr(page: u64, pfn: Pfn) -> u64 {
    (page << 40) | (pfn.get() << 12)
}

struct Mapped(Shared);

impl Dma for Mapped {
    fn map(&mut self, run: &Run) -> Result<(), FaultError> {
        let mut world = self.0.borrow_mut();
        match &mut world.room {
            Some(0) => return Err(FaultError::NoMemory),
            Some(room) => *room -= 1,
            None => {}
        }
        for page in run.range().start().get()..run.range().end().get() {
            assert!(
                world.mapped.insert(page, *run).is_none(),
                "{page} is mapped twice"
            );
        }
        Ok(())
    }

    fn addr(&self, page: PageIndex, pfn: Pfn) -> u64 {
        addr(page.get(), pfn)
    }

    fn unmap(&mut self, run: &Run, zapped: &Zapped<'_>) {
        let mut world = self.0.borrow_mut();
        assert_eq!(zapped.pages().intersection(&run.range()), run.range());
        for page in run.range().start().get()..run.range().end().get() {
            let mapped = world.mapped.remove(&page).expect("it is mapped");
            assert_eq!((mapped.order, mapped.perm), (run.order, run.perm));
            // What is mapped by one entry only goes as a whole.
            assert!(mapped.order == 0 || mapped == *run);
            assert!(
                !world.device.contains_key(&page),
                "{page} is unmapped before the zap"
            );
        }
    }

    fn written(&mut self, run: &Run) {
        let mut world = self.0.borrow_mut();
        let frames = (0..run.pages).map(|index| run.pfn.add(index).get());
        world.dirty.extend(frames);
    }

    fn hold(&mut self, run: &Run) {
        *self.0.borrow_mut().held.entry(run.pfn.get()).or_default() += 1;
    }

    fn release(&mut self, run: &Run) {
        let mut world = self.0.borrow_mut();
        assert_eq!(
            world.held.remove(&run.pfn.get()),
            Some(1),
            "it was not held"
        );
    }
}

struct TestDevice(Shared);

impl TestDevice {
    fn write(&mut self, entries: &Entries<'_>) {
        let changed = entries.changed();
        let first = (changed.start().get() / BLOCK * BLOCK).max(RANGE.start().get());
        let end = changed
            .end()
            .get()
            .next_multiple_of(BLOCK)
            .min(RANGE.end().get());
        for page in first..end {
            let entry = entries.at(PageIndex::new(page));
            let device = &mut self.0.borrow_mut().device;
            match entry {
                Some(entry) => device.insert(page, entry),
                None => device.remove(&page),
            };
        }
    }
}

impl DeviceChunk for TestDevice {
    fn enter(&mut self, entries: &Entries<'_>) -> Result<(), FaultError> {
        // It may have them all and yet fail.
        self.write(entries);
        let failed = self.0.borrow().enter_fails;
        failed.map_or(Ok(()), Err)
    }

    fn zap<'z>(&mut self, zap: Zap<'z>, entries: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>> {
        assert_eq!(entries.changed(), zap.pages());
        if self.0.borrow().zap_fails {
            return Err(zap);
        }
        self.write(entries);
        Ok(zap.confirmed())
    }

    fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> {
        let mut world = self.0.borrow_mut();
        world.cut_offs += 1;
        if world.cut_off_fails {
            return Err(zap);
        }
        world.device.clear();
        Ok(zap.confirmed())
    }
}

/// As much room as is asked for.
struct Plenty;

fn defaults<T: Default>(count: u64) -> Vec<T> {
    (0..count).map(|_| T::default()).collect()
}

impl Room<Vec<Pages<Vec<Slot>>>, Vec<Slot>> for Plenty {
    fn pages(&mut self, pmds: usize) -> Option<Vec<Pages<Vec<Slot>>>> {
        Some(defaults(pmds as u64))
    }

    fn slots(&mut self, pages: u64) -> Option<Vec<Slot>> {
        Some(defaults(pages))
    }
}

struct Scene {
    world: Shared,
    xlt: TestXlt,
    device: TestDevice,
}

impl Scene {
    fn new() -> Self {
        let world = Shared::default();
        let xlt = Xlt::new(RANGE, defaults(pmds_in(RANGE)));
        Self {
            xlt: DeviceXlt::new(xlt, Mapped(world.clone())),
            device: TestDevice(world.clone()),
            world,
        }
    }

    /// The CPU's page table has `runs`, all in one PMD.
    fn enter(&mut self, runs: &[Run], limit: Perm) -> Result<Filled, FaultError> {
        self.enter_in(runs, limit, &mut Plenty)
    }

    fn enter_in(
        &mut self,
        runs: &[Run],
        limit: Perm,
        room: &mut impl Room<Vec<Pages<Vec<Slot>>>, Vec<Slot>>,
    ) -> Result<Filled, FaultError> {
        let pmd = crate::addr::pmd_range(runs[0].range().intersection(&RANGE).start());
        let pages = pmd.intersection(&RANGE);
        let mut pfns = vec![HmmPfn::ABSENT; pages.len() as usize];
        let mut found = PmdPages::new(pages, &mut pfns);
        for run in runs {
            found.mapped(*run).unwrap();
        }
        self.xlt.enter(&mut self.device, &found, limit, room)
    }

    fn revoke(&mut self, range: PageRange) -> u64 {
        self.xlt.revoke(&mut self.device, range)
    }

    /// The table, the mappings and the device have the same pages; returns how many.
    fn check(&self) -> usize {
        let world = self.world.borrow();
        for page in RANGE.start().get()..RANGE.end().get() {
            let known = self.xlt.xlt().get(PageIndex::new(page));
            let told = known.map(|(pfn, perm)| Translation {
                addr: addr(page, pfn),
                perm,
            });
            assert_eq!(told.as_ref(), world.device.get(&page), "{page}");
            assert_eq!(known.is_some(), world.mapped.contains_key(&page), "{page}");
        }
        assert_eq!(world.device.len(), world.mapped.len());
        assert_eq!(self.xlt.xlt().is_empty(), world.device.is_empty());
        assert!(world.held.is_empty());
        world.device.len()
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex::new(start), PageIndex::new(end))
}

fn run(start: u64, pages: u64, perm: Perm) -> Run {
    Run {
        start: PageIndex::new(start),
        pfn: Pfn::new((1 << 20) + start),
        pages,
        perm,
        order: 0,
        memory: Memory::System,
    }
}

fn huge(pmd: u64) -> Run {
    Run {
        order: PMD_ORDER,
        ..run(pmd * PMD_PAGES, PMD_PAGES, Perm::ReadWrite)
    }
}

const RW: Perm = Perm::ReadWrite;

#[test]
fn the_device_has_what_the_table_has_and_no_more_rights() {
    let mut scene = Scene::new();
    let filled = scene.enter(&[run(600, 5, RW), run(605, 1, Perm::ReadOnly)], RW);
    assert_eq!(filled.unwrap().added, 6);
    assert_eq!(scene.check(), 6);
    for (page, read, write) in [(599, false, false), (604, true, true), (605, true, false)] {
        let page = PageIndex::new(page);
        assert_eq!(scene.xlt.allows(page, Access::Read), read);
        assert_eq!(scene.xlt.allows(page, Access::Write), write);
    }
    scene.enter(&[run(700, 1, RW)], Perm::ReadOnly).unwrap();
    assert!(!scene.xlt.allows(PageIndex::new(700), Access::Write));
    // A neighbour in the same block of the device keeps its entry.
    assert_eq!(scene.revoke(pages(601, 602)), 1);
    assert_eq!(scene.check(), 6);
    assert_eq!(scene.world.borrow().dirty, [(1 << 20) + 601]);
    // What can only be read cannot have been written.
    assert_eq!(scene.revoke(pages(605, 701)), 2);
    assert_eq!(scene.world.borrow().dirty.len(), 1);
}

#[test]
fn what_is_there_already_is_not_given_again() {
    let mut scene = Scene::new();
    scene.enter(&[run(600, 4, RW)], RW).unwrap();
    scene.world.borrow_mut().enter_fails = Some(FaultError::Device);
    assert_eq!(scene.enter(&[run(600, 4, RW)], RW), Ok(Filled::default()));
    // With fewer rights, neither.
    assert_eq!(
        scene.enter(&[run(601, 1, Perm::ReadOnly)], RW),
        Ok(Filled::default())
    );
    assert_eq!(scene.check(), 4);
}

#[test]
fn more_rights_and_other_frames_take_the_place_of_what_was_there() {
    let mut scene = Scene::new();
    scene.enter(&[run(600, 8, Perm::ReadOnly)], RW).unwrap();
    assert_eq!(scene.enter(&[run(602, 2, RW)], RW).unwrap().added, 2);
    assert_eq!(scene.check(), 8);
    assert!(scene.xlt.allows(PageIndex::new(603), Access::Write));
    assert!(!scene.xlt.allows(PageIndex::new(604), Access::Write));
    let elsewhere = Run {
        pfn: Pfn::new(7),
        ..run(606, 1, RW)
    };
    assert_eq!(scene.enter(&[elsewhere], RW).unwrap().added, 1);
    assert_eq!(scene.check(), 8);
    assert_eq!(
        scene.xlt.xlt().get(PageIndex::new(606)),
        Some((Pfn::new(7), RW))
    );
}

#[test]
fn a_huge_page_is_one_mapping_and_goes_as_a_whole() {
    let mut scene = Scene::new();
    assert_eq!(scene.enter(&[huge(1)], RW).unwrap().added, PMD_PAGES);
    assert_eq!(scene.check(), 512);
    assert_eq!(scene.revoke(pages(700, 701)), PMD_PAGES);
    assert_eq!(scene.check(), 0);
    // Once for the whole entry, which is one folio's.
    assert_eq!(scene.world.borrow().dirty.len(), 512);
    // A part of one at the edge of the table.
    assert_eq!(scene.enter(&[huge(0)], RW).unwrap().added, 12);
    assert_eq!(scene.check(), 12);
    // Beside single pages, a huge entry is single ones.
    scene.enter(&[run(600, 1, RW)], RW).unwrap();
    assert_eq!(scene.enter(&[huge(1)], RW).unwrap().added, PMD_PAGES - 1);
    assert_eq!(scene.check(), 524);
    assert_eq!(scene.revoke(pages(700, 701)), 1);
    assert_eq!(scene.check(), 523);
}

#[test]
fn what_cannot_be_mapped_is_not_entered() {
    let mut scene = Scene::new();
    scene.world.borrow_mut().room = Some(0);
    assert_eq!(
        scene.enter(&[run(600, 1, RW)], RW),
        Err(FaultError::NoMemory)
    );
    assert_eq!(scene.check(), 0);
    // Of several, those before.
    scene.world.borrow_mut().room = Some(1);
    let several = [run(600, 1, RW), run(602, 1, RW)];
    assert_eq!(scene.enter(&several, RW).unwrap().added, 1);
    assert_eq!(scene.check(), 1);
    assert!(scene.xlt.allows(PageIndex::new(600), Access::Read));
}

#[test]
fn without_room_in_the_table_nothing_is_mapped() {
    let mut scene = Scene::new();
    let filled = scene.enter_in(&[run(600, 1, RW)], RW, &mut NoRoom).unwrap();
    assert_eq!((filled.added, filled.left_out), (0, true));
    assert_eq!(scene.check(), 0);
}

#[test]
fn a_device_that_fails_to_enter_keeps_nothing() {
    let mut scene = Scene::new();
    scene.enter(&[run(600, 1, RW)], RW).unwrap();
    scene.world.borrow_mut().enter_fails = Some(FaultError::Device);
    assert_eq!(scene.enter(&[run(602, 3, RW)], RW), Err(FaultError::Device));
    assert_eq!(scene.check(), 1);
}

#[test]
fn a_device_that_does_not_confirm_is_cut_off() {
    let mut scene = Scene::new();
    scene.enter(&[run(600, 8, RW)], RW).unwrap();
    scene.enter(&[huge(2)], RW).unwrap();
    scene.world.borrow_mut().zap_fails = true;
    // It loses all pages of the chunk.
    assert_eq!(scene.revoke(pages(601, 602)), 8 + PMD_PAGES);
    assert_eq!(scene.check(), 0);
    assert_eq!(scene.world.borrow().cut_offs, 1);
    assert_eq!(scene.enter(&[run(600, 1, RW)], RW), Err(FaultError::Device));
    assert_eq!(scene.xlt.close(&mut scene.device), (0, true));
    assert_eq!(scene.world.borrow().cut_offs, 1);
}

#[test]
fn what_nobody_can_take_from_the_device_stays_mapped_and_held() {
    let mut scene = Scene::new();
    scene
        .enter(&[run(600, 2, RW), run(602, 1, Perm::ReadOnly)], RW)
        .unwrap();
    {
        let mut world = scene.world.borrow_mut();
        (world.zap_fails, world.cut_off_fails) = (true, true);
    }
    assert!(scene.xlt.uses(pages(600, 601)));
    for _ in 0..2 {
        assert_eq!(scene.revoke(pages(600, 601)), 0);
        let world = scene.world.borrow();
        assert_eq!((world.mapped.len(), world.device.len()), (3, 3));
        assert_eq!(world.held.len(), 2, "each run, once");
        assert!(world.dirty.is_empty());
        assert_eq!(world.cut_offs, 1);
    }
    // The CPU may have the pages: it cannot be told from the device's side, and they are not freed.
    assert!(!scene.xlt.uses(pages(600, 601)));
    assert_eq!(scene.enter(&[run(610, 1, RW)], RW), Err(FaultError::Device));
    assert_eq!(scene.xlt.close(&mut scene.device), (0, false));
    assert_eq!(scene.world.borrow().mapped.len(), 3);
    // The device is found to be off after all.
    scene.world.borrow_mut().cut_off_fails = false;
    assert_eq!(scene.xlt.close(&mut scene.device), (3, true));
    assert_eq!(scene.check(), 0);
    assert_eq!(scene.world.borrow().dirty.len(), 2);
}

#[test]
fn what_the_device_has_not_got_is_taken_from_it_without_asking() {
    let mut scene = Scene::new();
    scene.world.borrow_mut().zap_fails = true;
    scene.enter(&[run(600, 1, RW)], RW).unwrap();
    assert_eq!(scene.revoke(pages(601, 700)), 0);
    assert_eq!(scene.check(), 1);
    assert!(!scene.xlt.uses(pages(601, 700)));
    assert!(scene.xlt.uses(pages(590, 601)));
}

#[derive(Clone, Debug)]
enum Step {
    Enter(Vec<(u64, u64, bool)>, bool),
    EnterHuge(u64),
    Revoke(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let runs = prop::collection::vec((0..20u64, 1..6u64, any::<bool>()), 1..5);
    let step = prop_oneof![
        3 => (runs, any::<bool>()).prop_map(|(runs, limit)| Step::Enter(runs, limit)),
        1 => (0..4u64).prop_map(Step::EnterHuge),
        3 => (480..1560u64, 1..40u64).prop_map(|(start, pages)| Step::Revoke(start, pages)),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #[test]
    fn whatever_happens_all_three_agree(steps in steps(), pmd in 0..4u64) {
        let mut scene = Scene::new();
        for step in steps {
            match step {
                Step::Enter(gaps, limit) => {
                    let mut page = (pmd * PMD_PAGES + 490).max(RANGE.start().get());
                    let mut runs = Vec::new();
                    for (gap, pages, writable) in gaps {
                        page += gap;
                        let run = run(page, pages, Perm::from_writable(writable));
                        page += pages;
                        // All of them in one PMD.
                        let pmd = crate::addr::pmd_range(runs.first().map_or(run.start, |run: &Run| run.start));
                        runs.extend(run.part(pmd.intersection(&RANGE)));
                    }
                    if !runs.is_empty() {
                        scene.enter(&runs, Perm::from_writable(limit)).unwrap();
                    }
                }
                Step::EnterHuge(pmd) if huge(pmd).range().overlaps(&RANGE) => {
                    scene.enter(&[huge(pmd)], RW).unwrap();
                }
                Step::EnterHuge(_) => {}
                Step::Revoke(start, pages) => {
                    let range = PageRange::new(PageIndex::new(start), PageIndex::new(start + pages));
                    scene.revoke(range);
                    prop_assert!(!scene.xlt.xlt().has_any(range));
                }
            }
            scene.check();
        }
        let left = scene.check() as u64;
        prop_assert_eq!(scene.xlt.close(&mut scene.device), (left, true));
        prop_assert_eq!(scene.check(), 0);
    }
}
