// SPDX-License-Identifier: GPL-2.0
// Registers the whole address space with the first RDMA device, or the one that is named, and has it write from memory
// that nobody has touched since it was filled to memory that nobody has touched at all. Exit status 77 if the device has
// no implicit on-demand paging.
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <infiniband/verbs.h>

enum { GID = 1, PORT = 1, SKIPPED = 77, LENGTH = 1 << 20 };

static struct ibv_context *open_device(const char *name)
{
	struct ibv_device **all = ibv_get_device_list(NULL);
	struct ibv_context *device = NULL;

	for (int i = 0; all && all[i] && !device; i++)
		if (!name || !strcmp(name, ibv_get_device_name(all[i])))
			device = ibv_open_device(all[i]);
	if (!device)
		errx(1, "there is no such RDMA device");
	ibv_free_device_list(all);
	return device;
}

static int has_implicit_odp(struct ibv_context *device)
{
	struct ibv_device_attr_ex attr;
	struct ibv_odp_caps *odp = &attr.odp_caps;

	if (ibv_query_device_ex(device, NULL, &attr))
		err(1, "ibv_query_device_ex");
	return (odp->general_caps & IBV_ODP_SUPPORT_IMPLICIT) &&
	       (odp->per_transport_caps.rc_odp_caps & IBV_ODP_SUPPORT_WRITE);
}

static struct ibv_qp *make_qp(struct ibv_pd *pd, struct ibv_cq *cq)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp *qp = ibv_create_qp(pd, &init);

	if (!qp)
		err(1, "ibv_create_qp");
	return qp;
}

static void modify(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	int error = ibv_modify_qp(qp, attr, mask | IBV_QP_STATE);

	if (error)
		errx(1, "ibv_modify_qp to state %d: %s", attr->qp_state, strerror(error));
}

/* Both ends are on this device. */
static void connect_to(struct ibv_qp *qp, uint32_t peer, union ibv_gid gid)
{
	struct ibv_qp_attr init = {
		.qp_state = IBV_QPS_INIT, .port_num = PORT, .qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};
	struct ibv_qp_attr receive = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_1024,
		.dest_qp_num = peer,
		.min_rnr_timer = 12,
		.ah_attr = { .is_global = 1, .port_num = PORT,
			     .grh = { .dgid = gid, .sgid_index = GID, .hop_limit = 1 } },
	};
	struct ibv_qp_attr send = {
		.qp_state = IBV_QPS_RTS, .timeout = 14, .retry_cnt = 7, .rnr_retry = 7,
	};

	modify(qp, &init, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	modify(qp, &receive, IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
			     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	modify(qp, &send, IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
			  IBV_QP_MAX_QP_RD_ATOMIC);
}

static void write_to(struct ibv_qp *qp, struct ibv_cq *cq, struct ibv_mr *mr, void *from, void *to)
{
	struct ibv_sge sge = { .addr = (uintptr_t)from, .length = LENGTH, .lkey = mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = (uintptr_t)to, .rkey = mr->rkey },
	};
	struct ibv_send_wr *bad;
	struct ibv_wc wc;
	int found;

	if (ibv_post_send(qp, &wr, &bad))
		err(1, "ibv_post_send");
	while (!(found = ibv_poll_cq(cq, 1, &wc)))
		;
	if (found < 0 || wc.status != IBV_WC_SUCCESS)
		errx(1, "the write failed: %s", ibv_wc_status_str(wc.status));
}

static unsigned char *fresh_memory(void)
{
	void *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	return memory;
}

/* Depends on the position, so that a byte at the wrong place is noticed. */
static unsigned char pattern(size_t i)
{
	return (i * 167 + i / 251) & 0xff;
}

int main(int argc, char **argv)
{
	struct ibv_context *device = open_device(argc > 1 ? argv[1] : NULL);
	struct ibv_pd *pd = ibv_alloc_pd(device);
	struct ibv_cq *cq = ibv_create_cq(device, 4, NULL, NULL, 0);
	unsigned char *from = fresh_memory(), *to = fresh_memory();
	struct ibv_qp *sender, *receiver;
	struct ibv_mr *everything;
	union ibv_gid gid;

	if (!pd || !cq)
		err(1, "no protection domain or completion queue");
	if (!has_implicit_odp(device)) {
		fprintf(stderr, "the device has no implicit on-demand paging\n");
		return SKIPPED;
	}
	everything = ibv_reg_mr(pd, NULL, SIZE_MAX,
				IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_ON_DEMAND);
	if (!everything)
		err(1, "ibv_reg_mr");
	if (ibv_query_gid(device, PORT, GID, &gid))
		err(1, "ibv_query_gid");
	sender = make_qp(pd, cq);
	receiver = make_qp(pd, cq);
	connect_to(sender, receiver->qp_num, gid);
	connect_to(receiver, sender->qp_num, gid);

	for (size_t i = 0; i < LENGTH; i++)
		from[i] = pattern(i);
	write_to(sender, cq, everything, from, to);
	for (size_t i = 0; i < LENGTH; i++)
		if (to[i] != pattern(i))
			errx(1, "byte %zu is wrong", i);
	printf("%d bytes arrived in memory that was not there\n", LENGTH);
	return 0;
}
