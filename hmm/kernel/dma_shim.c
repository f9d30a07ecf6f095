// SPDX-License-Identifier: GPL-2.0
#include <linux/hmm.h>
#include <linux/hmm-dma.h>
#include <linux/iommu.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pci-p2pdma.h>

#include "dma_shim.h"

bool hmm_shim_dma_needs_copies(struct device *dev)
{
	bool copies_before = IS_ENABLED(CONFIG_DMA_NEED_SYNC) && !dev_dma_skip_sync(dev);

	return copies_before || dma_addressing_limited(dev);
}

unsigned long hmm_shim_dma_entry_sizes(struct device *dev)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);

	return domain && domain->pgsize_bitmap ? domain->pgsize_bitmap : PAGE_MASK;
}

phys_addr_t hmm_shim_dma_translated(struct device *dev, dma_addr_t addr)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);

	return domain ? iommu_iova_to_phys(domain, addr) : 0;
}

bool hmm_shim_dma_failed(struct device *dev, dma_addr_t addr)
{
	return dma_mapping_error(dev, addr);
}

const void *hmm_shim_dma_peer(unsigned long pfn)
{
	struct page *page = pfn_to_page(pfn);

	return is_pci_p2pdma_page(page) ? page_pgmap(page) : NULL;
}

/*
 * Modules cannot ask the kernel for the way between two PCI devices. Its own mapping of pages does,
 * and leaves the answer in the page's flags; so one page is mapped for a moment.
 */
enum hmm_shim_dma_route hmm_shim_dma_route(struct device *dev, unsigned long pfn, dma_addr_t *addr)
{
	enum hmm_shim_dma_route route = HMM_SHIM_DMA_UNREACHABLE;
	unsigned long word = pfn | HMM_PFN_VALID;
	struct pci_p2pdma_map_state state = {};
	struct hmm_dma_map map = {
		.pfn_list = &word, .dma_list = addr, .dma_entry_size = PAGE_SIZE,
	};

	*addr = hmm_dma_map_pfn(dev, &map, 0, &state);
	if (dma_mapping_error(dev, *addr))
		return route;
	if (word & HMM_PFN_P2PDMA_BUS)
		route = HMM_SHIM_DMA_BUS;
	else if (word & HMM_PFN_P2PDMA)
		route = HMM_SHIM_DMA_HOST_BRIDGE;
	hmm_dma_unmap_pfn(dev, &map, 0);
	return route;
}
