/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the shims of all NICs have in common for `rdma statistic` and `rdma resource`.
 */
#ifndef MLX_ODP_NETLINK_H
#define MLX_ODP_NETLINK_H

#include <net/netlink.h>
#include <rdma/ib_verbs.h>

/* Has put add to msg what it says of mr, nested in attribute. put returns whether there was room. */
static inline int mlx_odp_put_nested(struct sk_buff *msg, int attribute,
				     bool (*put)(struct sk_buff *msg, struct ib_mr *mr),
				     struct ib_mr *mr)
{
	struct nlattr *nest = nla_nest_start(msg, attribute);

	if (!nest)
		return -EMSGSIZE;
	if (!put(msg, mr)) {
		nla_nest_cancel(msg, nest);
		return -EMSGSIZE;
	}
	nla_nest_end(msg, nest);
	return 0;
}

#endif
