// SPDX-License-Identifier: GPL-2.0
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/string.h>

#include "device_shim.h"

void hmm_shim_device_pagemap(struct dev_pagemap *pagemap, unsigned long start, unsigned long end,
			     const struct dev_pagemap_ops *ops, void *owner)
{
	memset(pagemap, 0, sizeof(*pagemap));
	pagemap->type = MEMORY_DEVICE_PRIVATE;
	pagemap->range.start = start;
	pagemap->range.end = end;
	pagemap->nr_range = 1;
	pagemap->ops = ops;
	pagemap->owner = owner;
}

unsigned long hmm_shim_page_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

struct folio *hmm_shim_page_folio(struct page *page)
{
	return page_folio(page);
}

unsigned int hmm_shim_folio_order(struct folio *folio)
{
	return folio_order(folio);
}

unsigned long hmm_shim_folio_pfn(struct folio *folio)
{
	return folio_pfn(folio);
}

struct dev_pagemap *hmm_shim_folio_pagemap(struct folio *folio)
{
	return folio->pgmap;
}

void hmm_shim_folio_put(struct folio *folio)
{
	folio_put(folio);
}

void hmm_shim_hold_frame(unsigned long pfn)
{
	folio_get(page_folio(pfn_to_page(pfn)));
}

void hmm_shim_release_frame(unsigned long pfn)
{
	folio_put(page_folio(pfn_to_page(pfn)));
}

struct folio *hmm_shim_device_folio(unsigned long pfn, struct dev_pagemap *pagemap,
				    unsigned int order)
{
	struct page *page = pfn_to_page(pfn);

	/* Not page_folio(): what the page was part of before is history. */
	zone_device_folio_init((struct folio *)page, pagemap, order);
	return (struct folio *)page;
}

struct folio *hmm_shim_system_folio(struct vm_area_struct *vma, unsigned long addr,
				    unsigned int order)
{
	gfp_t gfp = GFP_HIGHUSER_MOVABLE;
	struct folio *folio;

	/* Without a complaint. Where the huge page could be split instead, without much effort, too. */
	if (order)
		gfp = GFP_TRANSHUGE | (vma ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL);
	folio = vma ? vma_alloc_folio(gfp, order, vma, addr) : folio_alloc(gfp, order);
	if (folio)
		folio_lock(folio);
	return folio;
}

void hmm_shim_copy_page(struct page *to, struct page *from)
{
	copy_highpage(to, from);
}

bool hmm_shim_is_zero_pfn(unsigned long pfn)
{
	return is_zero_pfn(pfn);
}
