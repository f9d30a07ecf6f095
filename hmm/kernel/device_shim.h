/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What device memory and exclusive access need of the kernel's inline functions and macros. bindgen
 * makes device_shim_bindings.rs of it. No logic lives here.
 */
#ifndef HMM_DEVICE_SHIM_H
#define HMM_DEVICE_SHIM_H

#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm_types.h>
#include <linux/rmap.h>

/* Describes the frames in [start, end] as device-private memory. */
void hmm_shim_device_pagemap(struct dev_pagemap *pagemap, unsigned long start, unsigned long end,
			     const struct dev_pagemap_ops *ops, void *owner);

unsigned long hmm_shim_page_pfn(const struct page *page);
struct folio *hmm_shim_page_folio(struct page *page);
unsigned int hmm_shim_folio_order(struct folio *folio);
unsigned long hmm_shim_folio_pfn(struct folio *folio);
struct dev_pagemap *hmm_shim_folio_pagemap(struct folio *folio);
void hmm_shim_folio_put(struct folio *folio);

/* A reference to the folio that frame pfn is a part of, which is in use. */
void hmm_shim_hold_frame(unsigned long pfn);
void hmm_shim_release_frame(unsigned long pfn);

/* A free frame of pagemap becomes a folio of this order, with one reference and locked. */
struct folio *hmm_shim_device_folio(unsigned long pfn, struct dev_pagemap *pagemap,
				    unsigned int order);

/*
 * A folio of system memory, locked: for addr of vma, or for nobody in particular if vma is NULL.
 * NULL if there is no memory.
 */
struct folio *hmm_shim_system_folio(struct vm_area_struct *vma, unsigned long addr,
				    unsigned int order);

void hmm_shim_copy_page(struct page *to, struct page *from);
bool hmm_shim_is_zero_pfn(unsigned long pfn);

#endif
