// SPDX-License-Identifier: GPL-2.0
//! From the first command to the last, and what is refused on the way.

use anyhow::Result;

use super::driver::Driver;
use crate::command;
use crate::device::HcaState;
use crate::layout::{
    access_register_in, access_register_out, alloc_pd_out, alloc_uar_out, create_mkey_in,
    create_mkey_out, create_uctx_out, dealloc_pd_in, dealloc_uar_in, destroy_mkey_in,
    destroy_uctx_in, general_obj_in_cmd_hdr, hca_vport_context, mad_ifc_in, mad_ifc_out, mkc,
    pcap_reg, query_hca_cap_out, query_hca_vport_context_in, query_hca_vport_context_out,
    query_mkey_in, query_mkey_out, query_pages_in, query_pages_out, query_special_contexts_out,
};
use crate::status::Status;
use crate::trace::Rule;

#[test]
fn a_driver_comes_and_goes_again_and_again() -> Result<()> {
    let mut driver = Driver::new()?;
    for _ in 0..3 {
        driver.probe()?;
        assert_eq!(driver.device.state, HcaState::Initialised);
        driver.remove()?;
        assert_eq!(driver.device.state, HcaState::Off);
    }
    assert_eq!(driver.violations(), []);
    Ok(())
}

#[test]
fn an_unknown_command_is_said_to_be_one() -> Result<()> {
    let mut driver = Driver::initialised()?;
    for opcode in [0, 0x1, 0x7ff, 0xffff] {
        let answer = driver.try_command(opcode, &[], 16)?;
        assert_eq!(answer, Err(Status::BadOperation as u64), "{opcode:#x}");
    }
    assert_eq!(driver.last("command")?["status"], "BadOperation");
    Ok(())
}

#[test]
fn every_command_looks_at_its_lengths() -> Result<()> {
    for command in command::all() {
        let mut driver = Driver::initialised()?;
        driver.device.state = command.from.max(HcaState::Enabled);
        if command.input > 16 {
            let answer = driver.try_command(command.opcode, &[0; 16], 0x2000)?;
            assert_eq!(
                answer,
                Err(Status::BadInputLength as u64),
                "{}",
                command.name
            );
        }
        if command.shortest > 8 {
            let input = vec![0; command.input];
            let answer = driver.try_command(command.opcode, &input, command.shortest - 8)?;
            assert_eq!(
                answer,
                Err(Status::BadOutputLength as u64),
                "{}",
                command.name
            );
        }
    }
    Ok(())
}

#[test]
fn commands_wait_for_the_device_to_be_up() -> Result<()> {
    for command in command::all().filter(|command| command.from == HcaState::Initialised) {
        let mut driver = Driver::initialised()?;
        driver.device.state = HcaState::Enabled;
        let input = vec![0; command.input];
        let answer = driver.try_command(command.opcode, &input, 0x2000)?;
        assert_eq!(
            answer,
            Err(Status::BadSystemState as u64),
            "{}",
            command.name
        );
    }
    Ok(())
}

#[test]
fn the_device_does_not_start_without_its_pages() -> Result<()> {
    let mut driver = Driver::new()?;
    driver.write32(0x14, 0x1000);
    driver.execute(0x104, &[], 16)?;
    let answer = driver.try_command(0x102, &[0; 32], 16)?;
    assert_eq!(answer, Err(Status::BadSystemState as u64));
    Ok(())
}

#[test]
fn pages_are_lent_until_the_end() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let mut input = [0; 16];
    query_pages_in::OP_MOD.set(&mut input, 3_u64);
    let output = driver.execute(0x107, &input, 16)?;
    assert_eq!(query_pages_out::NUM_PAGES.get(&output), 0);
    assert_eq!(
        driver.try_command(0x105, &[], 16)?,
        Err(Status::BadSystemState as u64)
    );
    driver.execute(0x103, &[0; 16], 16)?;
    let output = driver.execute(0x107, &input, 16)?;
    assert_eq!(query_pages_out::NUM_PAGES.get32(&output) as i32, -64);
    Ok(())
}

#[test]
fn a_mailbox_of_another_command_is_not_taken() -> Result<()> {
    let mut driver = Driver::initialised()?;
    // A chain that leads nowhere, one with a wrong token, and an entry that is the driver's.
    let mut entry = [0; 64];
    entry[0] = 7;
    entry[6..8].copy_from_slice(&0x100_u16.to_be_bytes());
    entry[8..16].copy_from_slice(&0x1_0000_0000_u64.to_be_bytes());
    entry[59] = 16;
    entry[60] = 1;
    entry[63] = 1;
    driver.write(0x1000, &entry)?;
    driver.write32(0x18, 1);
    let mut after = [0; 64];
    driver.read(0x1000, &mut after)?;
    assert_eq!(after[63], 6 << 1);
    entry[8..16].copy_from_slice(&0x3000_u64.to_be_bytes());
    driver.write(0x1000, &entry)?;
    driver.write32(0x18, 1);
    driver.read(0x1000, &mut after)?;
    assert_eq!(after[63], 2 << 1);
    driver.write32(0x18, 1);
    let rules: Vec<Rule> = driver.violations().iter().map(|found| found.rule).collect();
    let expected = [
        Rule::Memory,
        Rule::Interface,
        Rule::Interface,
        Rule::Interface,
    ];
    assert_eq!(rules, expected);
    Ok(())
}

#[test]
fn a_domain_in_use_stays() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let domain = driver.number(0x800, &[], alloc_pd_out::PD)?;
    let mut input = vec![0; create_mkey_in::BYTES];
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
    mkc::PD.set(context, domain);
    mkc::LEN.set(context, 0x1234_5678_u64);
    mkc::TRANSLATIONS_OCTWORD_SIZE.set(context, 2_u64);
    create_mkey_in::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.set(&mut input, 1_u64);
    input.extend((1..=16).collect::<Vec<u8>>());
    let key = driver.number(0x200, &input, create_mkey_out::MKEY_INDEX)?;
    let busy = driver.about(0x801, dealloc_pd_in::PD, domain)?;
    assert_eq!(busy, Err(Status::ResourceBusy as u64));
    let mut query = [0; 16];
    query_mkey_in::MKEY_INDEX.set(&mut query, key);
    let output = driver.execute(0x201, &query, query_mkey_out::BYTES)?;
    let context = query_mkey_out::MEMORY_KEY_MKEY_ENTRY.of(&output);
    assert_eq!(mkc::LEN.get(context), 0x1234_5678);
    assert_eq!(output[0x110..0x114], [1, 2, 3, 4]);
    assert!(driver
        .about(0x202, destroy_mkey_in::MKEY_INDEX, key)?
        .is_ok());
    assert!(driver.about(0x801, dealloc_pd_in::PD, domain)?.is_ok());
    let gone = driver.about(0x801, dealloc_pd_in::PD, domain)?;
    assert_eq!(gone, Err(Status::BadResource as u64));
    Ok(())
}

#[test]
fn a_key_has_no_more_translation_than_room() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let mut input = vec![0; create_mkey_in::BYTES + 64];
    create_mkey_in::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.set(&mut input, 4_u64);
    let refused = driver.try_command(0x200, &input, 16)?;
    assert_eq!(refused, Err(Status::BadParameter as u64));
    Ok(())
}

#[test]
fn special_keys_are_told() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let output = driver.execute(0x203, &[], query_special_contexts_out::BYTES)?;
    assert_ne!(query_special_contexts_out::NULL_MKEY.get(&output), 0);
    Ok(())
}

#[test]
fn the_port_answers_through_the_command() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let mut input = vec![0; mad_ifc_in::BYTES];
    mad_ifc_in::PORT.set(&mut input, 1_u64);
    let mad = mad_ifc_in::MAD.of_mut(&mut input);
    mad[..4].copy_from_slice(&[1, 1, 1, 1]);
    mad[17] = 0x15;
    let output = driver.execute(0x50d, &input, mad_ifc_out::BYTES)?;
    let answer = mad_ifc_out::RESPONSE_MAD_PACKET.of(&output);
    assert_eq!((answer[3], answer[64 + 32] & 0xf), (0x81, 4));
    mad_ifc_in::PORT.set(&mut input, 2_u64);
    let refused = driver.try_command(0x50d, &input, mad_ifc_out::BYTES)?;
    assert_eq!(refused, Err(Status::BadParameter as u64));
    Ok(())
}

#[test]
fn the_port_is_the_same_in_both_views() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let output = driver.execute(0x762, &[], query_hca_vport_context_out::BYTES)?;
    let context = query_hca_vport_context_out::HCA_VPORT_CONTEXT.of(&output);
    assert_eq!(hca_vport_context::VPORT_STATE.get(context), 4);
    assert_eq!(hca_vport_context::LID.get(context), 1);
    assert_eq!(
        hca_vport_context::PORT_GUID.get(context),
        0x0002_c903_0000_0100
    );
    let mut other = [0; 16];
    query_hca_vport_context_in::OTHER_VPORT.set(&mut other, 1_u64);
    let refused = driver.try_command(0x762, &other, query_hca_vport_context_out::BYTES)?;
    assert_eq!(refused, Err(Status::BadParameter as u64));
    Ok(())
}

#[test]
fn people_say_what_the_node_is_called() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let name: Vec<u8> = (0..64).map(|at| at ^ 0x35).collect();
    let mut input = vec![0; access_register_in::BYTES];
    access_register_in::REGISTER_ID.set(&mut input, 0x6001_u64);
    input.extend(&name);
    let size = input.len();
    driver.execute(0x805, &input, size)?;
    query_pages_in::OP_MOD.set(&mut input, 1_u64);
    let output = driver.execute(0x805, &input, size)?;
    assert_eq!(output[access_register_out::BYTES..], name);
    // Too little of it, and a register that there is not.
    let short = driver.try_command(0x805, &input, 20)?;
    assert_eq!(short, Err(Status::BadOutputLength as u64));
    access_register_in::REGISTER_ID.set(&mut input, 0x5008_u64);
    let missing = driver.try_command(0x805, &input, size)?;
    assert_eq!(missing, Err(Status::BadParameter as u64));
    Ok(())
}

#[test]
fn agents_say_what_the_port_can() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let mut input = vec![0; access_register_in::BYTES + pcap_reg::BYTES];
    access_register_in::REGISTER_ID.set(&mut input, 0x5001_u64);
    let data = &mut input[access_register_in::BYTES..];
    pcap_reg::LOCAL_PORT.set(data, 1_u64);
    data[4..8].copy_from_slice(&[0, 1, 0x40, 0]);
    driver.execute(0x805, &input, 16)?;
    let mut question = vec![0; mad_ifc_in::BYTES];
    mad_ifc_in::PORT.set(&mut question, 1_u64);
    let mad = mad_ifc_in::MAD.of_mut(&mut question);
    (mad[1], mad[3], mad[17]) = (1, 1, 0x15);
    let output = driver.execute(0x50d, &question, mad_ifc_out::BYTES)?;
    let answer = mad_ifc_out::RESPONSE_MAD_PACKET.of(&output);
    assert_eq!(answer[64 + 20..64 + 24], [0, 1, 0x40, 0]);
    // Another port.
    pcap_reg::LOCAL_PORT.set(&mut input[access_register_in::BYTES..], 2_u64);
    let refused = Err(Status::BadParameter as u64);
    assert_eq!(driver.try_command(0x805, &input, 16)?, refused);
    let short = driver.try_command(0x805, &input[..16], 16)?;
    assert_eq!(short, Err(Status::BadInputLength as u64));
    Ok(())
}

#[test]
fn a_reset_forgets_everything() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let page = driver.number(0x802, &[], alloc_uar_out::UAR)?;
    let before = driver.device.objects();
    assert_eq!(before, 1);
    let reset = driver.registers.reset();
    driver.device.handle(reset);
    assert_eq!(driver.device.objects(), 0);
    assert_eq!(driver.device.state, HcaState::Off);
    driver.probe()?;
    let gone = driver.about(0x803, dealloc_uar_in::UAR, page)?;
    assert_eq!(gone, Err(Status::BadResource as u64));
    Ok(())
}

#[test]
fn the_same_driver_makes_the_same_trace() -> Result<()> {
    let run = || -> Result<String> {
        let mut driver = Driver::initialised()?;
        driver.execute(0x100, &[0; 16], query_hca_cap_out::BYTES)?;
        driver.remove()?;
        Ok(driver.said())
    };
    assert_eq!(run()?, run()?);
    Ok(())
}

#[test]
fn who_asks_for_less_gets_the_beginning() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let whole = driver.execute(0x100, &[0; 16], query_hca_cap_out::BYTES)?;
    let part = driver.execute(0x100, &[0; 16], 200)?;
    assert_eq!(part, whole[..200]);
    Ok(())
}

#[test]
fn applications_have_contexts() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let objects = driver.device.objects();
    let user = driver.number(0xa04, &[], create_uctx_out::UID)?;
    assert_eq!(driver.device.objects(), objects + 1);
    // A command for it, and one for nobody that is there.
    let command = |user: u32| {
        let mut input = [0; 16];
        general_obj_in_cmd_hdr::UID.set(&mut input, user);
        input
    };
    for user in [user, 0xffff] {
        assert!(driver.try_command(0x800, &command(user), 16)?.is_ok());
    }
    let absent = driver.try_command(0x800, &command(user + 1), 16)?;
    assert_eq!(absent.err(), Some(Status::BadResource as u64));
    // An object that may not be in memory of an application.
    let mut input = vec![0; create_mkey_in::BYTES];
    create_mkey_in::MKEY_UMEM_VALID.set(&mut input, 1_u64);
    let made = driver.try_command(0x200, &input, 16)?;
    assert_eq!(made.err(), Some(Status::BadParameter as u64));
    let mut input = [0; 16];
    destroy_uctx_in::UID.set(&mut input, user);
    assert!(driver.try_command(0xa06, &input, 16)?.is_ok());
    let gone = driver.try_command(0x800, &command(user), 16)?;
    assert_eq!(gone.err(), Some(Status::BadResource as u64));
    Ok(())
}
