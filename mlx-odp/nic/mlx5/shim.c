// SPDX-License-Identifier: GPL-2.0
#include <linux/sched/mm.h>

#include "shim.h"

#include <linux/mlx5/eq.h>
#include <rdma/rdma_netlink.h>

#include "../netlink.h"
#include "cmd.h"
#include "qp.h"
#include "srq.h"
#include "umr.h"

/*
 * mr.c passes this to ib_umem_odp_get, which a compiler flag makes a function of this driver. The mirror registers
 * notifiers of its own, so it is not used.
 */
const struct mmu_interval_notifier_ops mlx5_mn_ops = {};

/* mr.c and umr.c count entries as int. */
#define MOST_ENTRIES (INT_MAX / 4)

bool mlx5_odp_shim_can_page(struct mlx5_ib_dev *dev)
{
	return MLX5_CAP_GEN(dev->mdev, pg) && mlx5r_umr_can_load_pas(dev, 0);
}

bool mlx5_odp_shim_memory_scheme(struct mlx5_ib_dev *dev)
{
	return MLX5_CAP_ODP(dev->mdev, mem_page_fault);
}

/* The bit, if the device has the capability. */
#define CAP(dev, service, operation, bit) \
	(MLX5_CAP_ODP_SCHEME((dev)->mdev, service.operation) ? IB_ODP_SUPPORT_##bit : 0)

u32 mlx5_odp_shim_service_caps(struct mlx5_ib_dev *dev, enum mlx5_odp_shim_service service)
{
	switch (service) {
	case MLX5_ODP_SHIM_RC:
		return CAP(dev, rc_odp_caps, send, SEND) | CAP(dev, rc_odp_caps, receive, RECV) |
		       CAP(dev, rc_odp_caps, write, WRITE) | CAP(dev, rc_odp_caps, read, READ) |
		       CAP(dev, rc_odp_caps, atomic, ATOMIC) |
		       CAP(dev, rc_odp_caps, srq_receive, SRQ_RECV);
	case MLX5_ODP_SHIM_UD:
		return CAP(dev, ud_odp_caps, send, SEND) |
		       CAP(dev, ud_odp_caps, srq_receive, SRQ_RECV);
	case MLX5_ODP_SHIM_XRC:
		return CAP(dev, xrc_odp_caps, send, SEND) | CAP(dev, xrc_odp_caps, receive, RECV) |
		       CAP(dev, xrc_odp_caps, write, WRITE) | CAP(dev, xrc_odp_caps, read, READ) |
		       CAP(dev, xrc_odp_caps, atomic, ATOMIC) |
		       CAP(dev, xrc_odp_caps, srq_receive, SRQ_RECV);
	}
	return 0;
}

static bool put_counters(struct sk_buff *msg, struct ib_mr *mr)
{
	return mlx_odp_mlx5_put_counters(msg, to_mmr(mr));
}

/* In the place of mlx5_ib's own, which is set later and has fewer counters. */
static int fill_stat_mr_entry(struct sk_buff *msg, struct ib_mr *mr)
{
	if (!is_odp_mr(to_mmr(mr)))
		return 0;
	return mlx_odp_put_nested(msg, RDMA_NLDEV_ATTR_STAT_HWCOUNTERS, put_counters, mr);
}

static const struct ib_device_ops on_demand_ops = {
	.advise_mr = mlx5_ib_advise_mr,
	.fill_stat_mr_entry = fill_stat_mr_entry,
};

/* In front of mlx5_ib_reg_user_mr: a large region is more than the one key that mr.c would make. */
static struct ib_mr *reg_user_mr(struct ib_pd *pd, u64 start, u64 length, u64 iova, int access,
				 struct ib_dmah *dmah, struct ib_udata *udata)
{
	bool implicit = !start && length == U64_MAX;
	struct mlx5_ib_mr *mr = NULL;

	if (access & IB_ACCESS_ON_DEMAND && !dmah && !implicit)
		mr = mlx_odp_mlx5_register(pd, start, length, iova, access);
	if (IS_ERR(mr))
		return ERR_CAST(mr);
	return mr ? &mr->ibmr : mlx5_ib_reg_user_mr(pd, start, length, iova, access, dmah, udata);
}

/*
 * In front of mlx5_ib_rereg_user_mr, which would change one key where there are many, and not what the region knows of
 * its rights: where a region on demand is concerned, there is a new one.
 */
static struct ib_mr *rereg_user_mr(struct ib_mr *ibmr, int flags, u64 start, u64 length, u64 iova,
				   int new_access, struct ib_pd *new_pd, struct ib_udata *udata)
{
	int access = flags & IB_MR_REREG_ACCESS ? new_access : to_mmr(ibmr)->access_flags;
	struct ib_pd *pd = flags & IB_MR_REREG_PD ? new_pd : ibmr->pd;
	int known = IB_MR_REREG_TRANS | IB_MR_REREG_PD | IB_MR_REREG_ACCESS;
	struct mlx5_ib_mr *mr = to_mmr(ibmr);
	int err;

	if (flags & ~known || !is_odp_mr(mr) || !(access & IB_ACCESS_ON_DEMAND))
		return mlx5_ib_rereg_user_mr(ibmr, flags, start, length, iova, new_access, new_pd,
					     udata);
	err = ib_umem_check_rereg(mr->umem, flags, access);
	if (err)
		return ERR_PTR(err);
	if (!(flags & IB_MR_REREG_TRANS)) {
		start = mr->umem->address;
		length = mr->is_odp_implicit ? U64_MAX : mr->umem->length;
		iova = mr->ibmr.iova;
	}
	return reg_user_mr(pd, start, length, iova, access, NULL, udata);
}

void mlx5_odp_shim_announce(struct mlx5_ib_dev *dev, const struct ib_odp_caps *caps)
{
	dev->odp_caps = *caps;
	dev->odp_max_size = MLX5_CAP_GEN(dev->mdev, umr_extended_translation_offset) ?
				    U64_MAX :
				    BIT_ULL(MLX5_MAX_UMR_SHIFT + PAGE_SHIFT);
	mutex_init(&dev->odp_eq_mutex);
	ib_set_device_ops(&dev->ib_dev, &on_demand_ops);
	/* mlx5_ib has set its own before. */
	dev->ib_dev.ops.reg_user_mr = reg_user_mr;
	dev->ib_dev.ops.rereg_user_mr = rereg_user_mr;
}

void mlx_odp_mlx5_unregister_device(struct ib_device *device)
{
	mlx_odp_mlx5_remove(to_mdev(device));
	ib_unregister_device(device);
}

struct mlx5_ib_dev *mlx5_odp_shim_dev_of(struct ib_pd *pd)
{
	return to_mdev(pd->device);
}

bool mlx5_odp_shim_announces(struct mlx5_ib_dev *dev)
{
	return dev->odp_caps.general_caps & IB_ODP_SUPPORT;
}

u32 mlx5_odp_shim_max_indirection(struct mlx5_ib_dev *dev)
{
	return MLX5_CAP_GEN(dev->mdev, max_indirection);
}

u32 mlx5_odp_shim_terminator(struct mlx5_ib_dev *dev)
{
	return be32_to_cpu(dev->mkeys.terminate_scatter_list_mkey);
}

void mlx5_odp_shim_set_driver_data(struct mlx5_ib_dev *dev, void *data)
{
	dev_set_drvdata(&dev->ib_dev.dev, data);
}

void *mlx5_odp_shim_driver_data(struct mlx5_ib_dev *dev)
{
	return dev_get_drvdata(&dev->ib_dev.dev);
}

const char *mlx5_odp_shim_name(struct mlx5_ib_dev *dev)
{
	return dev_name(&dev->ib_dev.dev);
}

/* As many faults at once as there are page faults of different requests that a device can have. */
#define EVENTS 0x1000

static int on_interrupt(struct notifier_block *nb, unsigned long type, void *data)
{
	struct mlx5_ib_pf_eq *eq = container_of(nb, struct mlx5_ib_pf_eq, irq_nb);

	queue_work(eq->wq, &eq->work);
	return IRQ_HANDLED;
}

/* A work item does not run concurrently with itself, so events are taken in one place. */
static void take_events(struct work_struct *work)
{
	struct mlx5_ib_pf_eq *eq = container_of(work, struct mlx5_ib_pf_eq, work);
	struct mlx5_eqe *eqe;
	u32 cc = 0;

	while ((eqe = mlx5_eq_get_eqe(eq->core, cc))) {
		mlx_odp_mlx5_event(eq->dev, eqe);
		cc = mlx5_eq_update_cc(eq->core, cc + 1);
	}
	mlx5_eq_update_ci(eq->core, cc, true);
}

static int create_eq(struct mlx5_ib_dev *dev, struct mlx5_ib_pf_eq *eq)
{
	struct mlx5_eq_param param = { .nent = EVENTS };
	struct mlx5_eq *core;
	int err;

	param.mask[0] = BIT_ULL(MLX5_EVENT_TYPE_PAGE_FAULT);
	INIT_WORK(&eq->work, take_events);
	eq->dev = dev;
	eq->irq_nb.notifier_call = on_interrupt;
	/* Reclaim waits for a fault that runs, which needs no memory then, but for none that is queued. */
	eq->wq = alloc_workqueue("mlx5_odp", WQ_HIGHPRI | WQ_UNBOUND, WQ_MAX_ACTIVE);
	if (!eq->wq)
		return -ENOMEM;
	core = mlx5_eq_create_generic(dev->mdev, &param);
	if (IS_ERR(core)) {
		err = PTR_ERR(core);
		goto no_queue;
	}
	eq->core = core;
	err = mlx5_eq_enable(dev->mdev, core, &eq->irq_nb);
	if (!err)
		return 0;
	eq->core = NULL;
	mlx5_eq_destroy_generic(dev->mdev, core);
no_queue:
	destroy_workqueue(eq->wq);
	return err;
}

int mlx5_odp_shim_create_eq(struct mlx5_ib_dev *dev, struct mlx5_ib_pf_eq *eq)
{
	int ret = 0;

	mutex_lock(&dev->odp_eq_mutex);
	if (!eq->core)
		ret = create_eq(dev, eq) ?: 1;
	mutex_unlock(&dev->odp_eq_mutex);
	return ret;
}

void mlx5_odp_shim_destroy_eq(struct mlx5_ib_dev *dev)
{
	struct mlx5_ib_pf_eq *eq = &dev->odp_pf_eq;

	if (!eq->core)
		return;
	mlx5_eq_disable(dev->mdev, eq->core, &eq->irq_nb);
	/* No interrupt any more; what has come is handled here. */
	destroy_workqueue(eq->wq);
	mlx5_eq_destroy_generic(dev->mdev, eq->core);
	eq->core = NULL;
}

struct workqueue_struct *mlx5_odp_shim_queue(struct mlx5_ib_dev *dev)
{
	return dev->odp_pf_eq.wq;
}

int mlx5_odp_shim_resume_transport(struct mlx5_ib_dev *dev, u8 type, u32 wq_number, u32 token,
				   bool error)
{
	u32 in[MLX5_ST_SZ_DW(page_fault_resume_in)] = {};
	void *info = MLX5_ADDR_OF(page_fault_resume_in, in, page_fault_info.trans_page_fault_info);

	MLX5_SET(page_fault_resume_in, in, opcode, MLX5_CMD_OP_PAGE_FAULT_RESUME);
	MLX5_SET(trans_page_fault_info, info, error, error);
	MLX5_SET(trans_page_fault_info, info, page_fault_type, type);
	MLX5_SET(trans_page_fault_info, info, wq_number, wq_number);
	MLX5_SET(trans_page_fault_info, info, fault_token, token);
	return mlx5_cmd_exec_in(dev->mdev, page_fault_resume, in);
}

int mlx5_odp_shim_resume_memory(struct mlx5_ib_dev *dev, u64 token, bool error)
{
	u32 in[MLX5_ST_SZ_DW(page_fault_resume_in)] = {};
	void *info = MLX5_ADDR_OF(page_fault_resume_in, in, page_fault_info.mem_page_fault_info);

	MLX5_SET(page_fault_resume_in, in, opcode, MLX5_CMD_OP_PAGE_FAULT_RESUME);
	MLX5_SET(mem_page_fault_info, info, error, error);
	MLX5_SET(mem_page_fault_info, info, fault_token_47_32, upper_32_bits(token));
	MLX5_SET(mem_page_fault_info, info, fault_token_31_0, lower_32_bits(token));
	return mlx5_cmd_exec_in(dev->mdev, page_fault_resume, in);
}

struct mlx5_core_rsc_common *mlx5_odp_shim_hold_wq(struct mlx5_ib_dev *dev, u32 number, bool shared)
{
	struct mlx5_core_srq *srq;

	if (!shared)
		return mlx5_core_res_hold(dev, number, MLX5_RES_QP);
	srq = mlx5_cmd_get_srq(dev, number);
	return srq ? &srq->common : NULL;
}

void mlx5_odp_shim_put_wq(struct mlx5_core_rsc_common *wq)
{
	mlx5_core_res_put(wq);
}

static enum mlx5_odp_shim_kind kind_of(const struct mlx5_ib_qp *qp)
{
	if (qp->type == IB_QPT_XRC_INI)
		return MLX5_ODP_SHIM_XRC_INITIATOR;
	if (qp->type == IB_QPT_UD || qp->type == MLX5_IB_QPT_DCI)
		return MLX5_ODP_SHIM_ADDRESSED;
	return MLX5_ODP_SHIM_CONNECTED;
}

int mlx5_odp_shim_read_wqe(struct mlx5_core_rsc_common *wq, bool send, u16 index, void *buffer,
			   size_t length, struct mlx5_odp_shim_wqe *wqe)
{
	struct mlx5_ib_srq *srq;
	struct mlx5_ib_qp *qp;

	switch (wq->res) {
	case MLX5_RES_QP:
		qp = to_mibqp(container_of(wq, struct mlx5_core_qp, common));
		wqe->kind = kind_of(qp);
		if (send)
			return mlx5_ib_read_wqe_sq(qp, index, buffer, length, &wqe->copied);
		/* A signature is in front of the list. */
		if (qp->flags_en & MLX5_QP_FLAG_SIGNATURE)
			return -EOPNOTSUPP;
		wqe->size = BIT(qp->rq.wqe_shift);
		return mlx5_ib_read_wqe_rq(qp, index, buffer, length, &wqe->copied);
	case MLX5_RES_SRQ:
	case MLX5_RES_XSRQ:
		srq = to_mibsrq(container_of(wq, struct mlx5_core_srq, common));
		wqe->size = BIT(srq->msrq.wqe_shift);
		return mlx5_ib_read_wqe_srq(srq, index, buffer, length, &wqe->copied);
	default:
		return -EOPNOTSUPP;
	}
}

/* An indirect key has the variant that its owner gave it. */
static bool is_variant(const struct mlx5_ib_mkey *mkey, u32 key)
{
	return mkey->type == MLX5_MKEY_MW || mkey->type == MLX5_MKEY_INDIRECT_DEVX ||
	       mkey->key == key;
}

struct mlx5_ib_mkey *mlx5_odp_shim_find_mkey(struct mlx5_ib_dev *dev, u32 key)
{
	struct mlx5_ib_mkey *mkey;

	xa_lock(&dev->odp_mkeys);
	mkey = xa_load(&dev->odp_mkeys, mlx5_base_mkey(key));
	if (mkey && !is_variant(mkey, key))
		mkey = ERR_PTR(-EFAULT);
	else if (mkey)
		refcount_inc(&mkey->usecount);
	xa_unlock(&dev->odp_mkeys);
	return mkey;
}

/* The MR outlives what the table has of it: mr.c frees it last. */
static struct mlx5_ib_mkey *root_of(struct mlx5_ib_mkey *mkey)
{
	switch (mkey->type) {
	case MLX5_MKEY_MR:
		return mkey;
	case MLX5_MKEY_IMPLICIT_CHILD:
		return &container_of(mkey, struct mlx5_ib_mr, mmkey)->parent->mmkey;
	case MLX5_MKEY_NULL:
		return &container_of(mkey, struct mlx5_ib_mr, null_mmkey)->mmkey;
	default:
		return NULL;
	}
}

struct mlx5_ib_mkey *mlx5_odp_shim_find_root(struct mlx5_ib_dev *dev, u32 key)
{
	struct mlx5_ib_mkey *mkey, *root = NULL;

	xa_lock(&dev->odp_mkeys);
	mkey = xa_load(&dev->odp_mkeys, mlx5_base_mkey(key));
	if (mkey && mkey->key == key)
		root = root_of(mkey);
	if (root && !refcount_inc_not_zero(&root->usecount))
		root = NULL;
	xa_unlock(&dev->odp_mkeys);
	return root;
}

void mlx5_odp_shim_put_mkey(struct mlx5_ib_mkey *mkey)
{
	mlx5r_deref_odp_mkey(mkey);
}

enum mlx5_mkey_type mlx5_odp_shim_mkey_type(const struct mlx5_ib_mkey *mkey)
{
	return mkey->type;
}

struct mlx5_ib_mr *mlx5_odp_shim_mr_of(struct mlx5_ib_mkey *mkey)
{
	return container_of(mkey, struct mlx5_ib_mr, mmkey);
}

u32 mlx5_odp_shim_klms(const struct mlx5_ib_mkey *mkey)
{
	return mkey->ndescs;
}

int mlx5_odp_shim_query_klms(struct mlx5_ib_dev *dev, struct mlx5_ib_mkey *mkey, u64 *start,
			     void *klms, u32 count)
{
	size_t fixed = MLX5_BYTE_OFF(query_mkey_out, bsf0_klm0_pas_mtt0_1);
	size_t list = count * sizeof(struct mlx5_klm);
	size_t size = max(fixed + list, MLX5_ST_SZ_BYTES(query_mkey_out));
	void *out = kvzalloc(size, GFP_KERNEL);
	int err;

	if (!out)
		return -ENOMEM;
	err = mlx5_core_query_mkey(dev->mdev, mkey->key, out, size);
	if (!err) {
		*start = MLX5_GET64(query_mkey_out, out, memory_key_mkey_entry.start_addr);
		memcpy(klms, out + fixed, list);
	}
	kvfree(out);
	return err;
}

void mlx5_odp_shim_init_head(struct ib_umem_odp *head, struct ib_device *device, unsigned long addr,
			     size_t size, int access)
{
	head->umem.ibdev = device;
	head->umem.address = addr;
	head->umem.length = size;
	/* Compared only: no reference is held. */
	head->umem.owning_mm = current->mm;
	head->umem.writable = ib_access_writable(access);
	head->umem.is_odp = 1;
	head->is_implicit_odp = !size;
	head->notifier.interval_tree.start = ALIGN_DOWN(addr, PAGE_SIZE);
	head->notifier.interval_tree.last = ALIGN(addr + max_t(size_t, size, 1), PAGE_SIZE) - 1;
	/* Also where huge pages were promised: their pages are entered one by one. */
	head->page_shift = PAGE_SHIFT;
	mutex_init(&head->umem_mutex);
}

bool mlx5_odp_shim_is_odp(const struct ib_umem *umem)
{
	return umem->is_odp;
}

struct ib_umem_odp *mlx5_odp_shim_head(const struct mlx5_ib_mr *mr)
{
	return mr->umem && mr->umem->is_odp ? to_ib_umem_odp(mr->umem) : NULL;
}

void mlx5_odp_shim_describe(struct mlx5_ib_mr *mr, struct mlx5_odp_shim_mr *about)
{
	about->dev = mr_to_mdev(mr);
	about->dma_device = about->dev->ib_dev.dma_device;
	about->va = mr->umem->address;
	about->length = mr->umem->length;
	about->iova = mr->ibmr.iova;
	about->lkey = mr->mmkey.key;
	about->writable = mr->umem->writable;
}

struct ib_pd *mlx5_odp_shim_pd(struct mlx5_ib_mr *mr)
{
	return mr->ibmr.pd;
}

int mlx5_odp_shim_enable(struct mlx5_ib_mr *mr, size_t count, unsigned int shift, bool ksm)
{
	if (count > MOST_ENTRIES)
		return -EINVAL;
	return mlx5r_umr_update_xlt(mr, 0, count, shift,
				    MLX5_IB_UPD_XLT_ENABLE | (ksm ? MLX5_IB_UPD_XLT_INDIRECT : 0),
				    to_mpd(mr->ibmr.pd)->pdn);
}

int mlx5_odp_shim_update(struct mlx5_ib_mr *mr, size_t first, size_t count, bool ksm)
{
	unsigned int noreclaim;
	int err;

	if (count > MOST_ENTRIES)
		return -EINVAL;
	/* Reclaim may wait for the caller's locks. umr.c allocates so that it does not, but where it recovers a queue. */
	noreclaim = memalloc_noreclaim_save();
	/* The size of a page stays. */
	err = mlx5r_umr_update_xlt(mr, first, count, 0,
				   MLX5_IB_UPD_XLT_ATOMIC | (ksm ? MLX5_IB_UPD_XLT_INDIRECT : 0),
				   0);
	memalloc_noreclaim_restore(noreclaim);
	return err;
}

bool mlx5_odp_shim_can_lead_on(struct mlx5_ib_dev *dev)
{
	return MLX5_CAP_GEN(dev->mdev, fixed_buffer_size) && MLX5_CAP_GEN(dev->mdev, null_mkey) &&
	       MLX5_CAP_GEN(dev->mdev, umr_extended_translation_offset) &&
	       !MLX5_CAP_GEN(dev->mdev, umr_indirect_mkey_disabled);
}

u32 mlx5_odp_shim_max_log_ksm(struct mlx5_ib_dev *dev)
{
	return get_max_log_entity_size_cap(dev, MLX5_MKC_ACCESS_MODE_KSM);
}

u64 mlx5_odp_shim_user_end(void)
{
	return TASK_SIZE_MAX;
}

u32 mlx5_odp_shim_null_mkey(struct mlx5_ib_mr *mr)
{
	if (mr->null_mmkey.key)
		return mr->null_mmkey.key;
	return be32_to_cpu(mr_to_mdev(mr)->mkeys.null_mkey);
}

struct ib_pd *mlx5_odp_shim_ib_pd(struct mlx5_ib_pd *pd)
{
	return &pd->ibpd;
}

int mlx5_odp_shim_prepare(struct mlx5_ib_dev *dev)
{
	return mlx5r_umr_resource_init(dev) ?: mlx5r_odp_create_eq(dev, &dev->odp_pf_eq);
}

struct ib_device *mlx5_odp_shim_ib_device(struct mlx5_ib_dev *dev)
{
	return &dev->ib_dev;
}

struct ib_device *mlx5_odp_shim_device_of(struct mlx5_ib_mr *mr)
{
	return mr->ibmr.device;
}

int mlx5_odp_shim_access(struct mlx5_ib_mr *mr)
{
	return mr->access_flags;
}

u32 mlx5_odp_shim_lkey(struct mlx5_ib_mr *mr)
{
	return mr->mmkey.key;
}

/* A key with count entries, over the memory of head. */
static struct mlx5_ib_mr *new_mr(struct ib_pd *pd, struct ib_umem_odp *head, int access, bool ksm,
				 size_t count)
{
	struct mlx5_ib_mr *mr = ERR_PTR(-EINVAL);

	if (count <= MOST_ENTRIES)
		mr = mlx5_mr_cache_alloc(to_mdev(pd->device), access,
					 ksm ? MLX5_MKC_ACCESS_MODE_KSM : MLX5_MKC_ACCESS_MODE_MTT,
					 count);

	if (IS_ERR(mr)) {
		mlx_odp_mlx5_umem_release(&head->umem);
		return mr;
	}
	mr->access_flags = access;
	mr->umem = &head->umem;
	mr->ibmr.device = pd->device;
	mr->ibmr.pd = pd;
	mr->ibmr.lkey = mr->mmkey.key;
	mr->ibmr.rkey = mr->mmkey.key;
	xa_init(&mr->implicit_children);
	head->private = mr;
	return mr;
}

struct mlx5_ib_mr *mlx5_odp_shim_new_root(struct ib_pd *pd, struct ib_umem_odp *head, int access,
					  size_t count)
{
	return new_mr(pd, head, access, true, count);
}

struct mlx5_ib_mr *mlx5_odp_shim_new_below(struct mlx5_ib_mr *root, struct ib_umem_odp *head,
					   bool ksm, size_t count)
{
	struct mlx5_ib_mr *mr = new_mr(root->ibmr.pd, head, root->access_flags, ksm, count);

	if (IS_ERR(mr))
		return mr;
	mr->parent = root;
	refcount_set(&mr->mmkey.usecount, 1);
	return mr;
}

void mlx5_odp_shim_set_range(struct mlx5_ib_mr *mr, u64 iova, u64 length)
{
	mr->ibmr.iova = iova;
	mr->ibmr.length = length;
}

void mlx5_odp_shim_set_implicit(struct mlx5_ib_mr *mr)
{
	mr->is_odp_implicit = true;
}

int mlx5_odp_shim_store_root(struct mlx5_ib_mr *mr)
{
	return mlx5r_store_odp_mkey(mr_to_mdev(mr), &mr->mmkey);
}

int mlx5_odp_shim_store_leaf(struct mlx5_ib_mr *mr)
{
	if (!mlx5_odp_shim_memory_scheme(mr_to_mdev(mr)))
		return 0;
	mr->mmkey.type = MLX5_MKEY_IMPLICIT_CHILD;
	return mlx5r_store_odp_mkey(mr_to_mdev(mr), &mr->mmkey);
}

/* An access to any address is a page fault, whatever it is for. */
int mlx5_odp_shim_make_null_mkey(struct mlx5_ib_mr *mr)
{
	/* One block of entries, all absent. */
	size_t size = MLX5_ST_SZ_BYTES(create_mkey_in) + 64;
	struct mlx5_ib_dev *dev = mr_to_mdev(mr);
	u32 *in = kzalloc(size, GFP_KERNEL);
	void *mkc;
	int err;

	if (!in)
		return -ENOMEM;
	mkc = MLX5_ADDR_OF(create_mkey_in, in, memory_key_mkey_entry);
	MLX5_SET(create_mkey_in, in, translations_octword_actual_size, 4);
	MLX5_SET(create_mkey_in, in, pg_access, 1);
	MLX5_SET(mkc, mkc, translations_octword_size, 4);
	MLX5_SET(mkc, mkc, access_mode_1_0, MLX5_MKC_ACCESS_MODE_MTT);
	MLX5_SET(mkc, mkc, log_page_size, 61);
	MLX5_SET(mkc, mkc, length64, 1);
	MLX5_SET(mkc, mkc, a, 1);
	MLX5_SET(mkc, mkc, rw, 1);
	MLX5_SET(mkc, mkc, rr, 1);
	MLX5_SET(mkc, mkc, lw, 1);
	MLX5_SET(mkc, mkc, lr, 1);
	MLX5_SET(mkc, mkc, pd, to_mpd(mr->ibmr.pd)->pdn);
	MLX5_SET(mkc, mkc, qpn, 0xffffff);
	err = mlx5_core_create_mkey(dev->mdev, &mr->null_mmkey.key, in, size);
	kfree(in);
	if (err)
		return err;
	mr->null_mmkey.type = MLX5_MKEY_NULL;
	/* If that fails, it goes with the MR. */
	return mlx5r_store_odp_mkey(dev, &mr->null_mmkey);
}

/* The end of a deregistration: all that led to the key has gone. */
void mlx5_ib_free_odp_mr(struct mlx5_ib_mr *mr)
{
	struct mlx5_ib_dev *dev = mr_to_mdev(mr);

	if (!mr->null_mmkey.key)
		return;
	xa_erase(&dev->odp_mkeys, mlx5_base_mkey(mr->null_mmkey.key));
	mlx5_core_destroy_mkey(dev->mdev, mr->null_mmkey.key);
}

void mlx5_odp_shim_free_mr(struct mlx5_ib_mr *mr)
{
	/* It fails if the device does: then the key stays. */
	mlx5_ib_dereg_mr(&mr->ibmr, NULL);
}

bool mlx5_odp_shim_hold_mr(struct mlx5_ib_mr *mr)
{
	return refcount_inc_not_zero(&mr->mmkey.usecount);
}

void mlx5_odp_shim_put_mr(struct mlx5_ib_mr *mr)
{
	mlx5r_deref_odp_mkey(&mr->mmkey);
}

bool mlx5_odp_shim_lock(struct mlx5_ib_mr *mr)
{
	struct ib_umem_odp *head = to_ib_umem_odp(mr->umem);

	mutex_lock(&head->umem_mutex);
	if (head->private)
		return true;
	mutex_unlock(&head->umem_mutex);
	return false;
}

void mlx5_odp_shim_unlock(struct mlx5_ib_mr *mr)
{
	mutex_unlock(&to_ib_umem_odp(mr->umem)->umem_mutex);
}

bool mlx5_odp_shim_put_counter(struct sk_buff *msg, const char *name, u64 value)
{
	return !rdma_nl_stat_hwcounter_entry(msg, name, value);
}
