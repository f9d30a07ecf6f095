// SPDX-License-Identifier: GPL-2.0
//! Where the fields of the device's structures are: each structure is declared once, as data.
//!
//! The offsets are those of the device's public interface (`include/linux/mlx5/mlx5_ifc.h`, which may be used under
//! the BSD licence, too). They count bits from the most significant one of a structure's first byte. [`header`] reads
//! such a file and says where it and the declarations differ.

pub mod header;

use std::ops::Range;

/// A field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in capitals.
    pub name: &'static str,
    /// Its first bit.
    pub bit: usize,
    /// Its width in bits.
    pub width: usize,
}

impl Field {
    /// The same field of a structure that is the part `whole` of another: where it is in that.
    pub(crate) const fn within(self, whole: Self) -> Self {
        Self {
            bit: whole.bit + self.bit,
            ..self
        }
    }

    /// The field's value. What lies beyond the end of `bytes` reads as zero: a driver has not sent it.
    pub(crate) fn get(&self, bytes: &[u8]) -> u64 {
        self.bits().fold(0, |value, bit| {
            let byte = bytes.get(bit / 8).copied().unwrap_or(0);
            (value << 1) | u64::from((byte >> (7 - bit % 8)) & 1)
        })
    }

    /// The value of a field of at most 32 bits.
    pub(crate) fn get32(&self, bytes: &[u8]) -> u32 {
        self.get(bytes) as u32
    }

    /// Whether a field of one bit is set.
    pub(crate) fn is_set(&self, bytes: &[u8]) -> bool {
        self.get(bytes) != 0
    }

    /// Sets the field to the lowest bits of `value`, as far as `bytes` has the field.
    pub(crate) fn set(&self, bytes: &mut [u8], value: impl Into<u64>) {
        let value = value.into();
        for (place, bit) in self.bits().rev().enumerate() {
            if let Some(byte) = bytes.get_mut(bit / 8) {
                let mask = 1 << (7 - bit % 8);
                match (value >> place) & 1 {
                    0 => *byte &= !mask,
                    _ => *byte |= mask,
                }
            }
        }
    }

    /// The bytes of a field that consists of whole ones, as far as `bytes` has them.
    pub(crate) fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.range(bytes.len())).unwrap_or_default()
    }

    /// The same to be changed.
    pub(crate) fn of_mut<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        let range = self.range(bytes.len());
        bytes.get_mut(range).unwrap_or_default()
    }

    fn range(&self, end: usize) -> Range<usize> {
        let first = (self.bit / 8).min(end);
        first..((self.bit + self.width) / 8).min(end)
    }

    /// The bits of its value: the last 64 of a wider one.
    fn bits(&self) -> impl DoubleEndedIterator<Item = usize> + ExactSizeIterator {
        let end = self.bit + self.width;
        end - self.width.min(64)..end
    }
}

/// Big-endian words of 64 bits.
pub(crate) fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |word, byte| (word << 8) | u64::from(*byte))
    };
    bytes.chunks_exact(8).map(word).collect()
}

/// A structure.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name.
    pub name: &'static str,
    /// Its size without the array that may follow it.
    pub bytes: usize,
    /// Those of its fields that the device knows.
    pub fields: &'static [Field],
}

macro_rules! layouts {
    ($($name:ident, $bytes:literal { $($field:ident @ $bit:literal, $width:literal;)* })*) => {
        $(
            pub(crate) mod $name {
                $(pub(crate) const $field: super::Field = super::Field {
                    name: stringify!($field),
                    bit: $bit,
                    width: $width,
                };)*
                pub(crate) const BYTES: usize = $bytes;
                pub(crate) const LAYOUT: super::Layout = super::Layout {
                    name: stringify!($name),
                    bytes: BYTES,
                    fields: &[$($field),*],
                };
            }
        )*
        /// All structures that are declared here.
        pub const ALL: &[Layout] = &[$($name::LAYOUT),*];
    };
}

layouts! {
    cmd_queue_entry, 0x40 {
        TYPE @ 0x0000, 0x8;
        INPUT_LENGTH @ 0x0020, 0x20;
        INPUT_MAILBOX_POINTER_63_32 @ 0x0040, 0x20;
        INPUT_MAILBOX_POINTER_31_9 @ 0x0060, 0x17;
        OUTPUT_MAILBOX_POINTER_63_32 @ 0x0180, 0x20;
        OUTPUT_MAILBOX_POINTER_31_9 @ 0x01a0, 0x17;
        OUTPUT_LENGTH @ 0x01c0, 0x20;
        TOKEN @ 0x01e0, 0x8;
        SIGNATURE @ 0x01e8, 0x8;
        STATUS @ 0x01f8, 0x7;
        OWNERSHIP @ 0x01ff, 0x1;
    }
    initial_seg, 0x400c {
        FW_REV_MINOR @ 0x0000, 0x10;
        FW_REV_MAJOR @ 0x0010, 0x10;
        CMD_INTERFACE_REV @ 0x0020, 0x10;
        FW_REV_SUBMINOR @ 0x0030, 0x10;
        CMDQ_PHY_ADDR_63_32 @ 0x0080, 0x20;
        CMDQ_PHY_ADDR_31_12 @ 0x00a0, 0x14;
        NIC_INTERFACE @ 0x00b6, 0x2;
        LOG_CMDQ_SIZE @ 0x00b8, 0x4;
        LOG_CMDQ_STRIDE @ 0x00bc, 0x4;
        COMMAND_DOORBELL_VECTOR @ 0x00c0, 0x20;
        INITIALIZING @ 0x0fe0, 0x1;
        NIC_INTERFACE_SUPPORTED @ 0x0fe5, 0x3;
        HEALTH_SYNDROME @ 0x8080, 0x8;
        HEALTH_COUNTER @ 0x8088, 0x18;
    }
    health_buffer, 0x40 {
        FW_VERSION @ 0x0180, 0x20;
        HW_ID @ 0x01a0, 0x20;
        RFR @ 0x01c0, 0x1;
        SEVERITY @ 0x01c5, 0x3;
        IRISC_INDEX @ 0x01e0, 0x8;
        SYND @ 0x01e8, 0x8;
        EXT_SYND @ 0x01f0, 0x10;
    }
    query_pages_in, 0x10 {
        OPCODE @ 0x0000, 0x10;
        OP_MOD @ 0x0030, 0x10;
        FUNCTION_ID @ 0x0050, 0x10;
    }
    query_pages_out, 0x10 {
        STATUS @ 0x0000, 0x8;
        SYNDROME @ 0x0020, 0x20;
        FUNCTION_ID @ 0x0050, 0x10;
        NUM_PAGES @ 0x0060, 0x20;
    }
    manage_pages_in, 0x10 {
        FUNCTION_ID @ 0x0050, 0x10;
        INPUT_NUM_ENTRIES @ 0x0060, 0x20;
    }
    manage_pages_out, 0x10 {
        OUTPUT_NUM_ENTRIES @ 0x0040, 0x20;
    }
    query_issi_out, 0x70 {
        CURRENT_ISSI @ 0x0050, 0x10;
        SUPPORTED_ISSI_DW0 @ 0x0360, 0x20;
    }
    set_issi_in, 0x10 {
        CURRENT_ISSI @ 0x0050, 0x10;
    }
    query_adapter_out, 0x110 {
        IEEE_VENDOR_ID @ 0x0148, 0x18;
        VSD_VENDOR_ID @ 0x0170, 0x10;
    }
    query_hca_cap_in, 0x10 {
        OPCODE @ 0x0000, 0x10;
        OP_MOD @ 0x0030, 0x10;
    }
    query_hca_cap_out, 0x1010 {
        CAPABILITY @ 0x0080, 0x8000;
    }
    set_hca_cap_in, 0x1010 {
        OPCODE @ 0x0000, 0x10;
        OP_MOD @ 0x0030, 0x10;
        CAPABILITY @ 0x0080, 0x8000;
    }
    access_register_in, 0x10 {
        REGISTER_ID @ 0x0050, 0x10;
        ARGUMENT @ 0x0060, 0x20;
    }
    access_register_out, 0x10 {
    }
    pcap_reg, 0x14 {
        LOCAL_PORT @ 0x0008, 0x8;
        PORT_CAPABILITY_MASK @ 0x0020, 0x80;
    }
    dtor_reg, 0x40 {
    }
    init_hca_in, 0x20 {
    }
    odp_cap, 0x100 {
        TRANSPORT_PAGE_FAULT_SCHEME_CAP @ 0x0000, 0x200;
        MEMORY_PAGE_FAULT_SCHEME_CAP @ 0x0200, 0x200;
        MEM_PAGE_FAULT @ 0x0600, 0x1;
    }
    odp_scheme_cap, 0x40 {
        PAGE_PREFETCH @ 0x0045, 0x1;
        RC_ODP_CAPS @ 0x0080, 0x20;
        UC_ODP_CAPS @ 0x00a0, 0x20;
        UD_ODP_CAPS @ 0x00c0, 0x20;
        XRC_ODP_CAPS @ 0x00e0, 0x20;
        DC_ODP_CAPS @ 0x0100, 0x20;
    }
    odp_per_transport_service_cap, 0x4 {
        SEND @ 0x0000, 0x1;
        RECEIVE @ 0x0001, 0x1;
        WRITE @ 0x0002, 0x1;
        READ @ 0x0003, 0x1;
        ATOMIC @ 0x0004, 0x1;
        SRQ_RECEIVE @ 0x0005, 0x1;
    }
    page_fault_resume_in, 0x10 {
        PAGE_FAULT_INFO @ 0x0040, 0x40;
    }
    trans_page_fault_info, 0x8 {
        ERROR @ 0x0000, 0x1;
        PAGE_FAULT_TYPE @ 0x0005, 0x3;
        WQ_NUMBER @ 0x0008, 0x18;
        FAULT_TOKEN @ 0x0028, 0x18;
    }
    mem_page_fault_info, 0x8 {
        ERROR @ 0x0000, 0x1;
        FAULT_TOKEN_47_32 @ 0x0010, 0x10;
        FAULT_TOKEN_31_0 @ 0x0020, 0x20;
    }
    rdma_page_fault_event, 0x1c {
        BYTES_COMMITTED @ 0x0000, 0x20;
        R_KEY @ 0x0020, 0x20;
        PACKET_LEN @ 0x0050, 0x10;
        RDMA_OP_LEN @ 0x0060, 0x20;
        RDMA_VA @ 0x0080, 0x40;
        RDMA @ 0x00c5, 0x1;
        WRITE @ 0x00c6, 0x1;
        QP_NUMBER @ 0x00c8, 0x18;
    }
    wqe_associated_page_fault_event, 0x1c {
        BYTES_COMMITTED @ 0x0000, 0x20;
        WQE_INDEX @ 0x0030, 0x10;
        LEN @ 0x0050, 0x10;
        WRITE_READ @ 0x00c6, 0x1;
        REQUESTOR @ 0x00c7, 0x1;
        QPN @ 0x00c8, 0x18;
    }
    query_special_contexts_out, 0x20 {
        DUMP_FILL_MKEY @ 0x0040, 0x20;
        RESD_LKEY @ 0x0060, 0x20;
        NULL_MKEY @ 0x0080, 0x20;
        TERMINATE_SCATTER_LIST_MKEY @ 0x00a0, 0x20;
    }
    create_eq_in, 0x110 {
        EQ_CONTEXT_ENTRY @ 0x0080, 0x200;
        EVENT_BITMASK @ 0x02c0, 0x100;
    }
    create_eq_out, 0x10 {
        EQ_NUMBER @ 0x0058, 0x8;
    }
    destroy_eq_in, 0x10 {
        EQ_NUMBER @ 0x0058, 0x8;
    }
    query_eq_in, 0x10 {
        EQ_NUMBER @ 0x0058, 0x8;
    }
    query_eq_out, 0x110 {
        EQ_CONTEXT_ENTRY @ 0x0080, 0x200;
        EVENT_BITMASK @ 0x02c0, 0x40;
    }
    eqc, 0x40 {
        STATUS @ 0x0000, 0x4;
        OI @ 0x000e, 0x1;
        ST @ 0x0014, 0x4;
        PAGE_OFFSET @ 0x0054, 0x6;
        LOG_EQ_SIZE @ 0x0063, 0x5;
        UAR_PAGE @ 0x0068, 0x18;
        INTR @ 0x00b4, 0xc;
        LOG_PAGE_SIZE @ 0x00c3, 0x5;
        CONSUMER_COUNTER @ 0x0148, 0x18;
        PRODUCER_COUNTER @ 0x0168, 0x18;
    }
    eqe, 0x40 {
        EVENT_TYPE @ 0x0008, 0x8;
        EVENT_SUB_TYPE @ 0x0018, 0x8;
        EVENT_DATA @ 0x0100, 0xe0;
        SIGNATURE @ 0x01f0, 0x8;
        OWNER @ 0x01ff, 0x1;
    }
    cmd_inter_comp_event, 0x1c {
        COMMAND_COMPLETION_VECTOR @ 0x0000, 0x20;
    }
    alloc_uar_out, 0x10 {
        UAR @ 0x0048, 0x18;
    }
    dealloc_uar_in, 0x10 {
        UAR @ 0x0048, 0x18;
    }
    alloc_pd_out, 0x10 {
        PD @ 0x0048, 0x18;
    }
    dealloc_pd_in, 0x10 {
        PD @ 0x0048, 0x18;
    }
    alloc_xrcd_out, 0x10 {
        XRCD @ 0x0048, 0x18;
    }
    dealloc_xrcd_in, 0x10 {
        XRCD @ 0x0048, 0x18;
    }
    alloc_transport_domain_out, 0x10 {
        TRANSPORT_DOMAIN @ 0x0048, 0x18;
    }
    dealloc_transport_domain_in, 0x10 {
        TRANSPORT_DOMAIN @ 0x0048, 0x18;
    }
    alloc_q_counter_out, 0x10 {
        COUNTER_SET_ID @ 0x0058, 0x8;
    }
    dealloc_q_counter_in, 0x10 {
        COUNTER_SET_ID @ 0x0058, 0x8;
    }
    query_q_counter_in, 0x20 {
        OTHER_VPORT @ 0x0040, 0x1;
        CLEAR @ 0x00c0, 0x1;
        AGGREGATE @ 0x00c1, 0x1;
        COUNTER_SET_ID @ 0x00f8, 0x8;
    }
    query_q_counter_out, 0x100 {
        RX_WRITE_REQUESTS @ 0x0080, 0x20;
        RX_READ_REQUESTS @ 0x00c0, 0x20;
        RX_ATOMIC_REQUESTS @ 0x0100, 0x20;
        OUT_OF_BUFFER @ 0x0180, 0x20;
        OUT_OF_SEQUENCE @ 0x01c0, 0x20;
        DUPLICATE_REQUEST @ 0x0200, 0x20;
        RNR_NAK_RETRY_ERR @ 0x0240, 0x20;
        PACKET_SEQ_ERR @ 0x0280, 0x20;
        LOCAL_ACK_TIMEOUT_ERR @ 0x0300, 0x20;
    }
    create_mkey_in, 0x110 {
        MKEY_UMEM_VALID @ 0x0061, 0x1;
        PG_ACCESS @ 0x0060, 0x1;
        MEMORY_KEY_MKEY_ENTRY @ 0x0080, 0x200;
        TRANSLATIONS_OCTWORD_ACTUAL_SIZE @ 0x0300, 0x20;
    }
    create_mkey_out, 0x10 {
        MKEY_INDEX @ 0x0048, 0x18;
    }
    destroy_mkey_in, 0x10 {
        MKEY_INDEX @ 0x0048, 0x18;
    }
    query_mkey_in, 0x10 {
        MKEY_INDEX @ 0x0048, 0x18;
    }
    query_mkey_out, 0x130 {
        MEMORY_KEY_MKEY_ENTRY @ 0x0080, 0x200;
    }
    mkc, 0x40 {
        FREE @ 0x0001, 0x1;
        ACCESS_MODE_4_2 @ 0x0003, 0x3;
        SMALL_FENCE_ON_RDMA_READ_RESPONSE @ 0x000f, 0x1;
        UMR_EN @ 0x0010, 0x1;
        A @ 0x0011, 0x1;
        RW @ 0x0012, 0x1;
        RR @ 0x0013, 0x1;
        LW @ 0x0014, 0x1;
        LR @ 0x0015, 0x1;
        ACCESS_MODE_1_0 @ 0x0016, 0x2;
        QPN @ 0x0020, 0x18;
        MKEY_7_0 @ 0x0038, 0x8;
        LENGTH64 @ 0x0060, 0x1;
        PD @ 0x0068, 0x18;
        START_ADDR @ 0x0080, 0x40;
        LEN @ 0x00c0, 0x40;
        TRANSLATIONS_OCTWORD_SIZE @ 0x01a0, 0x20;
        LOG_PAGE_SIZE @ 0x01da, 0x6;
        EN_RINVAL @ 0x0067, 0x1;
    }
    umem, 0x20 {
        LOG_PAGE_SIZE @ 0x009b, 0x5;
        PAGE_OFFSET @ 0x00a0, 0x20;
        NUM_OF_MTT @ 0x00c0, 0x40;
    }
    create_umem_in, 0x30 {
        UMEM @ 0x0080, 0x100;
    }
    create_umem_out, 0x10 {
        UMEM_ID @ 0x0048, 0x18;
    }
    destroy_umem_in, 0x10 {
        UMEM_ID @ 0x0048, 0x18;
    }
    create_cq_in, 0x110 {
        CQ_UMEM_VALID @ 0x02e0, 0x1;
        CQ_CONTEXT @ 0x0080, 0x200;
    }
    create_cq_out, 0x10 {
        CQN @ 0x0048, 0x18;
    }
    destroy_cq_in, 0x10 {
        CQN @ 0x0048, 0x18;
    }
    query_cq_in, 0x10 {
        CQN @ 0x0048, 0x18;
    }
    query_cq_out, 0x110 {
        CQ_CONTEXT @ 0x0080, 0x200;
    }
    modify_cq_in, 0x110 {
        CQ_UMEM_VALID @ 0x02e0, 0x1;
        OP_MOD @ 0x0030, 0x10;
        CQN @ 0x0048, 0x18;
        MODIFY_FIELD_SELECT_RESIZE_FIELD_SELECT @ 0x0060, 0x20;
        CQ_CONTEXT @ 0x0080, 0x200;
    }
    cqc, 0x40 {
        DBR_UMEM_VALID @ 0x0006, 0x1;
        STATUS @ 0x0000, 0x4;
        CQE_SZ @ 0x0008, 0x3;
        CC @ 0x000b, 0x1;
        OI @ 0x000e, 0x1;
        ST @ 0x0014, 0x4;
        PAGE_OFFSET @ 0x0054, 0x6;
        LOG_CQ_SIZE @ 0x0063, 0x5;
        UAR_PAGE @ 0x0068, 0x18;
        CQ_PERIOD @ 0x0084, 0xc;
        CQ_MAX_COUNT @ 0x0090, 0x10;
        C_EQN_OR_APU_ELEMENT @ 0x00a0, 0x20;
        LOG_PAGE_SIZE @ 0x00c3, 0x5;
        LAST_NOTIFIED_INDEX @ 0x0108, 0x18;
        LAST_SOLICIT_INDEX @ 0x0128, 0x18;
        CONSUMER_COUNTER @ 0x0148, 0x18;
        PRODUCER_COUNTER @ 0x0168, 0x18;
        DBR_ADDR @ 0x01c0, 0x40;
    }
    create_qp_in, 0x110 {
        WQ_UMEM_OFFSET @ 0x0800, 0x40;
        WQ_UMEM_ID @ 0x0840, 0x20;
        WQ_UMEM_VALID @ 0x0860, 0x1;
        INPUT_QPN @ 0x0048, 0x18;
        OPT_PARAM_MASK @ 0x0080, 0x20;
        QPC @ 0x00c0, 0x740;
    }
    create_qp_out, 0x10 {
        QPN @ 0x0048, 0x18;
    }
    destroy_qp_in, 0x10 {
        QPN @ 0x0048, 0x18;
    }
    rst2init_qp_in, 0x110 {
        QPN @ 0x0048, 0x18;
        OPT_PARAM_MASK @ 0x0080, 0x20;
        QPC @ 0x00c0, 0x740;
    }
    query_qp_in, 0x10 {
        QPN @ 0x0048, 0x18;
    }
    query_qp_out, 0x1d0 {
        OPT_PARAM_MASK @ 0x0080, 0x20;
        QPC @ 0x00c0, 0x740;
    }
    qpc, 0xe8 {
        DBR_UMEM_VALID @ 0x0683, 0x1;
        STATE @ 0x0000, 0x4;
        ST @ 0x0008, 0x8;
        PM_STATE @ 0x0013, 0x2;
        PD @ 0x0028, 0x18;
        MTU @ 0x0040, 0x3;
        LOG_MSG_MAX @ 0x0043, 0x5;
        LOG_RQ_SIZE @ 0x0049, 0x4;
        LOG_RQ_STRIDE @ 0x004d, 0x3;
        NO_SQ @ 0x0050, 0x1;
        LOG_SQ_SIZE @ 0x0051, 0x4;
        RLKY @ 0x005b, 0x1;
        COUNTER_SET_ID @ 0x0060, 0x8;
        UAR_PAGE @ 0x0068, 0x18;
        USER_INDEX @ 0x0088, 0x18;
        LOG_PAGE_SIZE @ 0x00a3, 0x5;
        REMOTE_QPN @ 0x00a8, 0x18;
        RETRY_COUNT @ 0x038d, 0x3;
        RNR_RETRY @ 0x0390, 0x3;
        NEXT_SEND_PSN @ 0x03c8, 0x18;
        CQN_SND @ 0x03e8, 0x18;
        DETH_SQPN @ 0x0408, 0x18;
        LOG_SRA_MAX @ 0x0388, 0x3;
        LOG_RRA_MAX @ 0x0488, 0x3;
        ATOMIC_MODE @ 0x048c, 0x4;
        RRE @ 0x0490, 0x1;
        RWE @ 0x0491, 0x1;
        RAE @ 0x0492, 0x1;
        PAGE_OFFSET @ 0x0494, 0x6;
        MIN_RNR_NAK @ 0x04a3, 0x5;
        NEXT_RCV_PSN @ 0x04a8, 0x18;
        XRCD @ 0x04c8, 0x18;
        CQN_RCV @ 0x04e8, 0x18;
        DBR_ADDR @ 0x0500, 0x40;
        Q_KEY @ 0x0540, 0x20;
        RQ_TYPE @ 0x0565, 0x3;
        SRQN_RMPN_XRQN @ 0x0568, 0x18;
        HW_SQ_WQEBB_COUNTER @ 0x05a0, 0x10;
        SW_SQ_WQEBB_COUNTER @ 0x05b0, 0x10;
        HW_RQ_COUNTER @ 0x05c0, 0x20;
        SW_RQ_COUNTER @ 0x05e0, 0x20;
        PRIMARY_ADDRESS_PATH @ 0x00c0, 0x160;
    }
    general_obj_in_cmd_hdr, 0x10 {
        OPCODE @ 0x0000, 0x10;
        UID @ 0x0010, 0x10;
    }
    create_uctx_out, 0x10 {
        UID @ 0x0050, 0x10;
    }
    destroy_uctx_in, 0x10 {
        UID @ 0x0050, 0x10;
    }
    dctc, 0x40 {
        STATE @ 0x0004, 0x4;
        USER_INDEX @ 0x0028, 0x18;
        CQN @ 0x0048, 0x18;
        COUNTER_SET_ID @ 0x0060, 0x8;
        ATOMIC_MODE @ 0x0068, 0x4;
        RRE @ 0x006c, 0x1;
        RWE @ 0x006d, 0x1;
        RAE @ 0x006e, 0x1;
        MIN_RNR_NAK @ 0x0093, 0x5;
        SRQN_XRQN @ 0x00a8, 0x18;
        PD @ 0x00c8, 0x18;
        DC_ACCESS_KEY @ 0x0100, 0x40;
        MTU @ 0x0145, 0x3;
        DC_ACCESS_KEY_VIOLATION_COUNT @ 0x0180, 0x20;
    }
    create_dct_in, 0x80 {
        DCT_CONTEXT_ENTRY @ 0x0080, 0x200;
    }
    create_dct_out, 0x10 {
        DCTN @ 0x0048, 0x18;
    }
    destroy_dct_in, 0x10 {
        DCTN @ 0x0048, 0x18;
    }
    drain_dct_in, 0x10 {
        DCTN @ 0x0048, 0x18;
    }
    query_dct_in, 0x10 {
        DCTN @ 0x0048, 0x18;
    }
    query_dct_out, 0x80 {
        DCT_CONTEXT_ENTRY @ 0x0080, 0x200;
    }
    arm_dct_in, 0x10 {
        DCT_NUMBER @ 0x0048, 0x18;
    }
    ads, 0x2c {
        PKEY_INDEX @ 0x0010, 0x10;
        GRH @ 0x0028, 0x1;
        RLID @ 0x0030, 0x10;
        ACK_TIMEOUT @ 0x0040, 0x5;
        SRC_ADDR_INDEX @ 0x0048, 0x8;
        HOP_LIMIT @ 0x0058, 0x8;
        RGID_RIP @ 0x0080, 0x80;
        SL @ 0x0124, 0x4;
        VHCA_PORT_NUM @ 0x0128, 0x8;
    }
    mad_ifc_in, 0x110 {
        OP_MOD @ 0x0030, 0x10;
        PORT @ 0x0058, 0x8;
        MAD @ 0x0080, 0x800;
    }
    mad_ifc_out, 0x110 {
        RESPONSE_MAD_PACKET @ 0x0080, 0x800;
    }
    create_xrc_srq_in, 0x110 {
        XRC_SRQ_UMEM_VALID @ 0x02e0, 0x1;
        XRC_SRQ_CONTEXT_ENTRY @ 0x0080, 0x200;
    }
    create_xrc_srq_out, 0x10 {
        XRC_SRQN @ 0x0048, 0x18;
    }
    destroy_xrc_srq_in, 0x10 {
        XRC_SRQN @ 0x0048, 0x18;
    }
    query_xrc_srq_in, 0x10 {
        XRC_SRQN @ 0x0048, 0x18;
    }
    query_xrc_srq_out, 0x110 {
        XRC_SRQ_CONTEXT_ENTRY @ 0x0080, 0x200;
    }
    xrc_srqc, 0x40 {
        DBR_UMEM_VALID @ 0x0047, 0x1;
        LOG_XRC_SRQ_SIZE @ 0x0004, 0x4;
        LOG_RQ_STRIDE @ 0x0025, 0x3;
        XRCD @ 0x0028, 0x18;
        PAGE_OFFSET @ 0x0040, 0x6;
        CQN @ 0x0048, 0x18;
        LOG_PAGE_SIZE @ 0x0082, 0x6;
        PD @ 0x00c8, 0x18;
        USER_INDEX @ 0x0088, 0x18;
        LWM @ 0x00e0, 0x10;
        DB_RECORD_ADDR_H @ 0x0140, 0x20;
        DB_RECORD_ADDR_L @ 0x0160, 0x1e;
    }
    create_rmp_in, 0x110 {
        CTX @ 0x0100, 0x780;
    }
    create_rmp_out, 0x10 {
        RMPN @ 0x0048, 0x18;
    }
    arm_xrc_srq_in, 0x10 {
        OP_MOD @ 0x0030, 0x10;
        XRC_SRQN @ 0x0048, 0x18;
        LWM @ 0x0070, 0x10;
    }
    modify_rmp_in, 0x110 {
        RMPN @ 0x0048, 0x18;
        BITMASK @ 0x0080, 0x40;
        CTX @ 0x0100, 0x780;
    }
    destroy_rmp_in, 0x10 {
        RMPN @ 0x0048, 0x18;
    }
    query_rmp_in, 0x10 {
        RMPN @ 0x0048, 0x18;
    }
    query_rmp_out, 0x110 {
        RMP_CONTEXT @ 0x0100, 0x780;
    }
    rmpc, 0xf0 {
        WQ @ 0x0180, 0x600;
        STATE @ 0x0008, 0x4;
    }
    wq, 0xc0 {
        WQ_UMEM_VALID @ 0x0121, 0x1;
        DBR_UMEM_VALID @ 0x0120, 0x1;
        PAGE_OFFSET @ 0x002b, 0x5;
        PD @ 0x0048, 0x18;
        LOG_WQ_STRIDE @ 0x010c, 0x4;
        LOG_WQ_PG_SZ @ 0x0113, 0x5;
        LOG_WQ_SZ @ 0x011b, 0x5;
        WQ_TYPE @ 0x0000, 0x4;
        LWM @ 0x0030, 0x10;
        DBR_ADDR @ 0x0080, 0x40;
    }
    query_hca_vport_context_in, 0x10 {
        OTHER_VPORT @ 0x0040, 0x1;
        PORT_NUM @ 0x004c, 0x4;
        VPORT_NUMBER @ 0x0050, 0x10;
    }
    query_hca_vport_context_out, 0x210 {
        HCA_VPORT_CONTEXT @ 0x0080, 0x1000;
    }
    hca_vport_context, 0x200 {
        HAS_SMI @ 0x0101, 0x1;
        PORT_PHYSICAL_STATE @ 0x0110, 0x4;
        PORT_STATE @ 0x0118, 0x4;
        VPORT_STATE @ 0x011c, 0x4;
        SYSTEM_IMAGE_GUID @ 0x0140, 0x40;
        PORT_GUID @ 0x0180, 0x40;
        NODE_GUID @ 0x01c0, 0x40;
        CAP_MASK1 @ 0x0200, 0x20;
        LID @ 0x0300, 0x10;
        SM_LID @ 0x0320, 0x10;
    }
    cmd_hca_cap, 0x100 {
        VHCA_ID @ 0x0030, 0x10;
        LOG_MAX_SRQ_SZ @ 0x0080, 0x8;
        LOG_MAX_QP_SZ @ 0x0088, 0x8;
        LOG_MAX_QP @ 0x009b, 0x5;
        LOG_MAX_SRQ @ 0x00ab, 0x5;
        MAX_SGL_FOR_OPTIMIZED_PERFORMANCE @ 0x00c0, 0x8;
        LOG_MAX_CQ_SZ @ 0x00c8, 0x8;
        LOG_MAX_CQ @ 0x00db, 0x5;
        LOG_MAX_EQ_SZ @ 0x00e0, 0x8;
        LOG_MAX_MKEY @ 0x00ea, 0x6;
        DUMP_FILL_MKEY @ 0x00f8, 0x1;
        LOG_MAX_EQ @ 0x00fc, 0x4;
        MAX_INDIRECTION @ 0x0100, 0x8;
        FIXED_BUFFER_SIZE @ 0x0108, 0x1;
        LOG_MAX_MRW_SZ @ 0x0109, 0x7;
        HCA_CAP_2 @ 0x0020, 0x1;
        UMR_EXTENDED_TRANSLATION_OFFSET @ 0x0118, 0x1;
        NULL_MKEY @ 0x0119, 0x1;
        LOG_MAX_KLM_LIST_SIZE @ 0x011a, 0x6;
        LOG_MAX_RA_REQ_DC @ 0x012a, 0x6;
        LOG_MAX_RA_RES_DC @ 0x013a, 0x6;
        LOG_MAX_RA_REQ_QP @ 0x014a, 0x6;
        LOG_MAX_RA_RES_QP @ 0x015a, 0x6;
        END_PAD @ 0x0160, 0x1;
        GID_TABLE_SIZE @ 0x0170, 0x10;
        OUT_OF_SEQ_CNT @ 0x0180, 0x1;
        RETRANSMISSION_Q_COUNTERS @ 0x0182, 0x1;
        MAX_QP_CNT @ 0x0186, 0xa;
        PKEY_TABLE_SIZE @ 0x0190, 0x10;
        VPORT_GROUP_MANAGER @ 0x01a0, 0x1;
        IB_VIRT @ 0x01a2, 0x1;
        LOCAL_CA_ACK_DELAY @ 0x01ab, 0x5;
        PORT_TYPE @ 0x01b6, 0x2;
        NUM_PORTS @ 0x01b8, 0x8;
        LOG_MAX_MSG @ 0x01c3, 0x5;
        STAT_RATE_SUPPORT @ 0x01e0, 0x10;
        CQE_VERSION @ 0x01fc, 0x4;
        COMPACT_ADDRESS_VECTOR @ 0x0200, 0x1;
        CMDIF_CHECKSUM @ 0x0210, 0x2;
        UMR_FENCE @ 0x020a, 0x2;
        SCTR_DATA_CQE @ 0x0215, 0x1;
        DCT @ 0x021a, 0x1;
        ROCE @ 0x021d, 0x1;
        ATOMIC @ 0x021e, 0x1;
        CQ_OI @ 0x0220, 0x1;
        CQ_RESIZE @ 0x0221, 0x1;
        CQ_MODERATION @ 0x0222, 0x1;
        PG @ 0x0227, 0x1;
        BLOCK_LB_MC @ 0x0228, 0x1;
        CQ_EQ_REMAP @ 0x0226, 0x1;
        APM @ 0x022e, 0x1;
        IMAICL @ 0x0231, 0x1;
        QKV @ 0x0236, 0x1;
        PKV @ 0x0237, 0x1;
        XRC @ 0x023c, 0x1;
        UD @ 0x023d, 0x1;
        UC @ 0x023e, 0x1;
        RC @ 0x023f, 0x1;
        UAR_4K @ 0x0240, 0x1;
        UAR_SZ @ 0x024a, 0x6;
        LOG_PG_SZ @ 0x0258, 0x8;
        BF @ 0x0260, 0x1;
        DRIVER_VERSION @ 0x0261, 0x1;
        LOG_BF_REG_SIZE @ 0x026b, 0x5;
        MAX_WQE_SZ_SQ @ 0x0290, 0x10;
        MAX_WQE_SZ_RQ @ 0x02b0, 0x10;
        MAX_WQE_SZ_SQ_DC @ 0x02d0, 0x10;
        MAX_QP_MCG @ 0x02e7, 0x19;
        LOG_MAX_MCG @ 0x0318, 0x8;
        LOG_MAX_TRANSPORT_DOMAIN @ 0x0323, 0x5;
        LOG_MAX_PD @ 0x032b, 0x5;
        LOG_MAX_XRCD @ 0x033b, 0x5;
        LOG_MAX_UCTX @ 0x0463, 0x5;
        MAX_NUM_EQS @ 0x0470, 0x10;
        LOG_UAR_PAGE_SZ @ 0x0490, 0x10;
        DEVICE_FREQUENCY_MHZ @ 0x04c0, 0x20;
        DEVICE_FREQUENCY_KHZ @ 0x04e0, 0x20;
        NUM_OF_UARS_PER_PAGE @ 0x0520, 0x20;
        RELEASE_ALL_PAGES @ 0x0145, 0x1;
        NATIVE_PORT_NUM @ 0x0608, 0x8;
    }
    cmd_hca_cap_2, 0x100 {
        UMR_LOG_ENTITY_SIZE_5 @ 0x0098, 0x1;
        MAX_MKEY_LOG_ENTITY_SIZE_FIXED_BUFFER @ 0x03a2, 0x6;
        MAX_MKEY_LOG_ENTITY_SIZE_MTT @ 0x03aa, 0x6;
    }
    atomic_caps, 0x100 {
        ATOMIC_REQ_8B_ENDIANNESS_MODE @ 0x0040, 0x2;
        SUPPORTED_ATOMIC_REQ_8B_ENDIANNESS_MODE_1 @ 0x0046, 0x1;
        ATOMIC_OPERATIONS @ 0x0090, 0x10;
        ATOMIC_SIZE_QP @ 0x00b0, 0x10;
        ATOMIC_SIZE_DC @ 0x00d0, 0x10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_count_from_the_most_significant_one() {
        let mut bytes = [0; 64];
        mkc::PD.set(&mut bytes, 0x0012_3456_u64);
        assert_eq!(bytes[13..16], [0x12, 0x34, 0x56]);
        cmd_queue_entry::OWNERSHIP.set(&mut bytes, 1_u64);
        assert_eq!(bytes[63], 1);
        mkc::START_ADDR.set(&mut bytes, 0x0102_0304_0506_0708_u64);
        assert_eq!(bytes[16..24], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn what_is_not_there_reads_as_zero_and_stays_away() {
        let mut bytes = [0xff; 3];
        assert_eq!(mkc::LEN.get(&bytes), 0);
        assert!(mad_ifc_in::MAD.of(&bytes).is_empty());
        mkc::LEN.set(&mut bytes, 0_u64);
        assert_eq!(bytes, [0xff; 3]);
    }

    #[test]
    fn fields_lie_within_their_structures() {
        for layout in ALL {
            for field in layout.fields {
                let end = field.bit + field.width;
                assert!(end <= layout.bytes * 8, "{} {}", layout.name, field.name);
            }
        }
    }

    proptest! {
        #[test]
        fn a_field_keeps_its_value_and_its_neighbours(
            bit in 0_usize..500, width in 1_usize..=64, value: u64, fill: u8,
        ) {
            let field = Field { name: "", bit, width };
            let mut bytes = [fill; 72];
            let before = bytes;
            field.set(&mut bytes, value);
            let kept = if width == 64 { value } else { value & ((1 << width) - 1) };
            prop_assert_eq!(field.get(&bytes), kept);
            field.set(&mut bytes, field.get(&before));
            prop_assert_eq!(bytes, before);
        }
    }
}
