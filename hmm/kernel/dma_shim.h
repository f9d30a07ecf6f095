/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What DMA mappings need of the kernel's inline functions and macros, and of what the kernel crate's
 * bindings lack. bindgen makes dma_shim_bindings.rs of it.
 */
#ifndef HMM_DMA_SHIM_H
#define HMM_DMA_SHIM_H

#include <linux/dma-mapping.h>
#include <linux/mmzone.h>

enum {
	HMM_SHIM_DMA_ATTR_COHERENT = DMA_ATTR_REQUIRE_COHERENT,
	HMM_SHIM_DMA_ATTR_MMIO = DMA_ATTR_MMIO,
	/* Memory of one kind begins and ends at multiples of so many pages. */
	HMM_SHIM_DMA_SECTION_PAGES = PAGES_PER_SUBSECTION,
};

enum hmm_shim_dma_route {
	HMM_SHIM_DMA_UNREACHABLE,
	HMM_SHIM_DMA_HOST_BRIDGE,
	HMM_SHIM_DMA_BUS,
};

/* Whether there is memory that dev reaches through a copy only. */
bool hmm_shim_dma_needs_copies(struct device *dev);

/* The sizes of entries that dev's IOMMU has, one bit for each; all if that is not known. */
unsigned long hmm_shim_dma_entry_sizes(struct device *dev);

/* What the IOMMU of dev translates addr to; 0 if to nothing. */
phys_addr_t hmm_shim_dma_translated(struct device *dev, dma_addr_t addr);

bool hmm_shim_dma_failed(struct device *dev, dma_addr_t addr);

/* Of whose memory frame pfn is, if it is a PCI device's; NULL otherwise. */
const void *hmm_shim_dma_peer(unsigned long pfn);

/*
 * How dev reaches frame pfn, which is a PCI device's memory; on the bus, at *addr. Nothing remains
 * mapped. May be called where nothing may sleep.
 */
enum hmm_shim_dma_route hmm_shim_dma_route(struct device *dev, unsigned long pfn, dma_addr_t *addr);

#endif
