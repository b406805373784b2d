"""Generated from what the RPC methods declare by tests/generated/write.py; do not edit.

One method of Client for each RPC method. A parameter that is None is not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from vbdev.api.results import (
        BdevInfo,
        ConfigCall,
        ContextSwitches,
        Export,
        Governor,
        Histogram,
        HistogramBorders,
        Holders,
        IobufModule,
        IoChannels,
        Iostat,
        NbdDisk,
        Notification,
        ReactorList,
        Scheduler,
        StackEntry,
        Subsystem,
        ThreadsPollers,
        ThreadsStats,
        Version,
    )

__all__ = ["Methods", "NewPartition"]

T = TypeVar("T")


class NewPartition(TypedDict):
    """One partition of a new table. The last one may be without a size: the rest of the
    disk."""

    name: NotRequired[str]
    """Up to 36 UTF-16 units."""
    size_mb: NotRequired[int]
    """Size in MiB."""
    num_blocks: NotRequired[int]
    """Or in blocks."""
    type_guid: NotRequired[UUID | str]
    """Type of the partition; SPDK's when absent."""
    unique_guid: NotRequired[UUID | str]
    """UUID of the partition, and of its bdev; random when absent."""


class Methods:
    """The RPC methods, as methods."""

    def _typed(self, method: Callable[..., T], params: Mapping[str, Any]) -> T:
        raise NotImplementedError

    def bdev_enable_histogram(
        self,
        *,
        name: str,
        enable: bool,
        opc: str | None = None,
        granularity: int | None = None,
        min_nsec: int | None = None,
        max_nsec: int | None = None,
    ) -> bool:
        """Begin or end a latency histogram.

        name: Name of the bdev.
        enable: Whether to count.
        opc: I/O type that is counted, as bdev_get_bdevs calls it; all when absent.
        granularity: Log2 of the buckets into which a power of two is cut. Default: 7.
        min_nsec: Least latency that is told apart, in ns. Default: 1000.
        max_nsec: Greatest latency that is told apart, in ns. Default: 120000000000.
        """
        return self._typed(
            Methods.bdev_enable_histogram,
            {
                "name": name,
                "enable": enable,
                "opc": opc,
                "granularity": granularity,
                "min_nsec": min_nsec,
                "max_nsec": max_nsec,
            },
        )

    def bdev_examine(
        self,
        *,
        name: str,
    ) -> bool:
        """Examine a bdev, now or when it comes, where not every bdev is examined.

        name: Name or alias of the bdev.
        """
        return self._typed(
            Methods.bdev_examine,
            {
                "name": name,
            },
        )

    def bdev_get_bdevs(
        self,
        *,
        name: str | None = None,
        timeout: int | None = None,
    ) -> list[BdevInfo]:
        """List bdevs, or one.

        name: Name, alias or UUID of one bdev.
        timeout: How long to wait for it, in ms. Default: 0.
        """
        return self._typed(
            Methods.bdev_get_bdevs,
            {
                "name": name,
                "timeout": timeout,
            },
        )

    def bdev_get_histogram(
        self,
        *,
        name: str,
    ) -> Histogram:
        """Return a bdev's latency histogram.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_get_histogram,
            {
                "name": name,
            },
        )

    def bdev_get_histogram_borders(
        self,
        *,
        name: str,
        borders: Sequence[int],
    ) -> HistogramBorders:
        """How many latencies lie up to each border.

        name: Name of the bdev.
        borders: Borders in us, in ascending order.
        """
        return self._typed(
            Methods.bdev_get_histogram_borders,
            {
                "name": name,
                "borders": borders,
            },
        )

    def bdev_get_iostat(
        self,
        *,
        names: Sequence[str] | None = None,
        name: str | None = None,
        per_channel: bool | None = None,
        reset_mode: Literal["all", "error", "maxmin", "none"] | None = None,
    ) -> Iostat:
        """Counters of I/O since the bdev was made, or reset.

        names: Names of bdevs; all when absent.
        name: One bdev, instead of `names`: what SPDK took until 26.05, and control planes send.
        per_channel: One bdev's counters channel by channel. Default: False.
        reset_mode: What to set back after it was read. Default: none.
        """
        return self._typed(
            Methods.bdev_get_iostat,
            {
                "names": names,
                "name": name,
                "per_channel": per_channel,
                "reset_mode": reset_mode,
            },
        )

    def bdev_lvol_get_lvols(
        self,
        *,
        lvs_uuid: str | None = None,
        lvs_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """List the logical volumes: there are none.

        lvs_uuid: UUID of a store, or
        lvs_name: its name; those of all stores when there are no parameters.
        """
        return self._typed(
            Methods.bdev_lvol_get_lvols,
            {
                "lvs_uuid": lvs_uuid,
                "lvs_name": lvs_name,
            },
        )

    def bdev_lvol_get_lvstores(
        self,
        *,
        uuid: str | None = None,
        lvs_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """List the stores of logical volumes: there are none.

        uuid: UUID of one, or
        lvs_name: its name; all when there are no parameters.
        """
        return self._typed(
            Methods.bdev_lvol_get_lvstores,
            {
                "uuid": uuid,
                "lvs_name": lvs_name,
            },
        )

    def bdev_nvme_get_controllers(
        self,
        *,
        name: str | None = None,
    ) -> list[dict[str, Any]]:
        """List the NVMe controllers: there are none.

        name: Name of one; all when absent.
        """
        return self._typed(
            Methods.bdev_nvme_get_controllers,
            {
                "name": name,
            },
        )

    def bdev_nvme_get_discovery_info(self) -> list[dict[str, Any]]:
        """List the NVMe discovery services: there are none."""
        return self._typed(Methods.bdev_nvme_get_discovery_info, {})

    def bdev_raid_get_bdevs(
        self,
        *,
        category: Literal["all", "configuring", "offline", "online"],
    ) -> list[dict[str, Any]]:
        """List the RAIDs: there are none.

        category: Those that are in this state.
        """
        return self._typed(
            Methods.bdev_raid_get_bdevs,
            {
                "category": category,
            },
        )

    def bdev_reset_iostat(
        self,
        *,
        name: str | None = None,
        mode: Literal["all", "error", "maxmin", "none"] | None = None,
    ) -> bool:
        """Set counters of I/O back.

        name: Name of a bdev; all when absent.
        mode: What to set back. Default: all.
        """
        return self._typed(
            Methods.bdev_reset_iostat,
            {
                "name": name,
                "mode": mode,
            },
        )

    def bdev_set_options(
        self,
        *,
        bdev_io_pool_size: int | None = None,
        bdev_io_cache_size: int | None = None,
        bdev_auto_examine: bool | None = None,
        iobuf_small_cache_size: int | None = None,
        iobuf_large_cache_size: int | None = None,
    ) -> bool:
        """Set options of the bdev layer, before it starts. What is absent stays as it is.

        bdev_io_pool_size: BdevIOs of one reactor.
        bdev_io_cache_size: BdevIOs that SPDK caches for each thread; the pool must hold one more
            such cache.
        bdev_auto_examine: Examine every new bdev; else those that `bdev_examine` names.
        iobuf_small_cache_size: Small buffers that SPDK caches for each thread; of no effect here.
        iobuf_large_cache_size: Large ones; of no effect here.
        """
        return self._typed(
            Methods.bdev_set_options,
            {
                "bdev_io_pool_size": bdev_io_pool_size,
                "bdev_io_cache_size": bdev_io_cache_size,
                "bdev_auto_examine": bdev_auto_examine,
                "iobuf_small_cache_size": iobuf_small_cache_size,
                "iobuf_large_cache_size": iobuf_large_cache_size,
            },
        )

    def bdev_set_qd_sampling_period(
        self,
        *,
        name: str,
        period: int,
    ) -> bool:
        """Sample how many I/Os are outstanding.

        name: Name of the bdev.
        period: Interval in us; 0 ends it.
        """
        return self._typed(
            Methods.bdev_set_qd_sampling_period,
            {
                "name": name,
                "period": period,
            },
        )

    def bdev_set_qos_limit(
        self,
        *,
        name: str,
        rw_ios_per_sec: int | None = None,
        rw_mbytes_per_sec: int | None = None,
        r_mbytes_per_sec: int | None = None,
        w_mbytes_per_sec: int | None = None,
    ) -> bool:
        """Limit the rate of a bdev's I/O. What is not given stays; 0 is unlimited.

        name: Name of the bdev.
        rw_ios_per_sec: Reads and writes a second, rounded up to whole thousands.
        rw_mbytes_per_sec: MiB a second, reads and writes together.
        r_mbytes_per_sec: MiB a second that are read.
        w_mbytes_per_sec: MiB a second that are written.
        """
        return self._typed(
            Methods.bdev_set_qos_limit,
            {
                "name": name,
                "rw_ios_per_sec": rw_ios_per_sec,
                "rw_mbytes_per_sec": rw_mbytes_per_sec,
                "r_mbytes_per_sec": r_mbytes_per_sec,
                "w_mbytes_per_sec": w_mbytes_per_sec,
            },
        )

    def bdev_wait_for_examine(self) -> bool:
        """Wait until no module looks at the data of a bdev any more."""
        return self._typed(Methods.bdev_wait_for_examine, {})

    def bdev_aio_create(
        self,
        *,
        name: str,
        filename: str,
        uuid: UUID | str | None = None,
        block_size: int | None = None,
        readonly: bool | None = None,
        fallocate: bool | None = None,
        nowait: bool | None = None,
    ) -> str:
        """Create a bdev on an existing file or block device.

        name: Name of the bdev, unique among names, aliases and UUIDs.
        filename: Path of the file or block device.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        block_size: Bytes, a power of two of at least 512. 0: what the file asks for. Default: 0.
        readonly: Never write; other readers may have the file too. Default: False.
        fallocate: Support UNMAP and WRITE_ZEROES. Default: False.
        nowait: Block devices only. Accepted for SPDK's sake: the ring never blocks here anyway.
            Default: False.
        """
        return self._typed(
            Methods.bdev_aio_create,
            {
                "name": name,
                "filename": filename,
                "uuid": uuid,
                "block_size": block_size,
                "readonly": readonly,
                "fallocate": fallocate,
                "nowait": nowait,
            },
        )

    def bdev_aio_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a aio bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_aio_delete,
            {
                "name": name,
            },
        )

    def bdev_aio_rescan(
        self,
        *,
        name: str,
    ) -> bool:
        """Follow a file's new size; a device that has none any more is hot-removed.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_aio_rescan,
            {
                "name": name,
            },
        )

    def bdev_delay_create(
        self,
        *,
        name: str,
        base_bdev_name: str,
        avg_read_latency: int,
        p99_read_latency: int,
        avg_write_latency: int,
        p99_write_latency: int,
        uuid: UUID | str | None = None,
        seed: int | None = None,
    ) -> str:
        """Create a vbdev whose READs and WRITEs take longer.

        name: Name of the bdev, unique among names, aliases and UUIDs.
        base_bdev_name: Name, alias or UUID of the base bdev, which may arrive later.
        avg_read_latency: How long 99 of 100 READs are held after the base has done them, in us.
        p99_read_latency: How long the others are held, in us; not less than the average.
        avg_write_latency: The same of WRITEs, in us.
        p99_write_latency: The same of WRITEs, in us.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        seed: Which of the I/Os are slow: the same ones for the same seed and the same sequence of
            I/Os. Follows from the UUID when absent. (Not SPDK's.)
        """
        return self._typed(
            Methods.bdev_delay_create,
            {
                "name": name,
                "base_bdev_name": base_bdev_name,
                "avg_read_latency": avg_read_latency,
                "p99_read_latency": p99_read_latency,
                "avg_write_latency": avg_write_latency,
                "p99_write_latency": p99_write_latency,
                "uuid": uuid,
                "seed": seed,
            },
        )

    def bdev_delay_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a delay bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_delay_delete,
            {
                "name": name,
            },
        )

    def bdev_delay_update_latency(
        self,
        *,
        delay_bdev_name: str,
        latency_type: Literal["avg_read", "avg_write", "p99_read", "p99_write"],
        latency_us: int,
    ) -> bool:
        """Give a delay bdev another latency, for the I/Os that come. As in SPDK, any: p99 below
        avg.

        delay_bdev_name: Name of the delay bdev.
        latency_type: Which one.
        latency_us: The new latency, in us.
        """
        return self._typed(
            Methods.bdev_delay_update_latency,
            {
                "delay_bdev_name": delay_bdev_name,
                "latency_type": latency_type,
                "latency_us": latency_us,
            },
        )

    def bdev_error_create(
        self,
        *,
        base_name: str,
        uuid: UUID | str | None = None,
        name: str | None = None,
    ) -> bool:
        """Create an error bdev, now or when its base comes.

        base_name: Name, alias or UUID of the base bdev, which may arrive later.
        uuid: UUID of the error bdev; follows from the base's when absent.
        name: Another name. (Not SPDK's.)
        """
        return self._typed(
            Methods.bdev_error_create,
            {
                "base_name": base_name,
                "uuid": uuid,
                "name": name,
            },
        )

    def bdev_error_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a error bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_error_delete,
            {
                "name": name,
            },
        )

    def bdev_error_inject_error(
        self,
        *,
        name: str,
        io_type: Literal["all", "clear", "flush", "read", "unmap", "write"],
        error_type: Literal["corrupt_data", "failure", "nomem", "nvme_failure", "pending"],
        nvme_sct: int | None = None,
        nvme_sc: int | None = None,
        num: int | None = None,
        queue_depth: int | None = None,
        corrupt_offset: int | None = None,
        corrupt_value: int | None = None,
        offset_blocks: int | None = None,
        num_blocks: int | None = None,
        nth: int | None = None,
        probability: float | None = None,
        seed: int | None = None,
    ) -> bool:
        """Let I/Os of an error bdev fail.

        name: Name of the error bdev.
        io_type: Which I/Os; `clear` forgets all injections, `all` makes one for each of the four
            types.
        error_type: What happens to them: FAILED; held until a RESET or bdev_error_resume_pending; a
            byte of their data changes (READ, WRITE); NOMEM, which is tried again; NVMe status.
        nvme_sct: nvme_failure: status code type. Default: 0.
        nvme_sc: nvme_failure: status code. Default: 0.
        num: How many I/Os; 0 takes the injection back. Default: 1.
        queue_depth: Only while the base has so many I/Os of the channel. Default: 0.
        corrupt_offset: corrupt_data: the byte of the I/O's data that is changed. Default: 0.
        corrupt_value: corrupt_data: what it is XORed with; not 0. Default: 0.
        offset_blocks: Only I/Os that touch the range that starts here, in blocks. Default: 0.
        num_blocks: Length of the range in blocks; 0: up to the end. Default: 0.
        nth: Only each nth of the I/Os that the above applies to. Default: 1.
        probability: Only with this chance. Default: 1.0.
        seed: Which ones the chance hits: the same for the same sequence of I/Os. Default: 0.
        """
        return self._typed(
            Methods.bdev_error_inject_error,
            {
                "name": name,
                "io_type": io_type,
                "error_type": error_type,
                "nvme_sct": nvme_sct,
                "nvme_sc": nvme_sc,
                "num": num,
                "queue_depth": queue_depth,
                "corrupt_offset": corrupt_offset,
                "corrupt_value": corrupt_value,
                "offset_blocks": offset_blocks,
                "num_blocks": num_blocks,
                "nth": nth,
                "probability": probability,
                "seed": seed,
            },
        )

    def bdev_error_resume_pending(
        self,
        *,
        name: str,
    ) -> bool:
        """Let the I/Os go on that an error bdev holds.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_error_resume_pending,
            {
                "name": name,
            },
        )

    def bdev_gpt_create(
        self,
        *,
        base_bdev: str,
        partitions: Sequence[NewPartition],
        disk_guid: UUID | str | None = None,
        overwrite: bool | None = None,
    ) -> list[str]:
        """Write a table and return the names of the bdevs that its partitions have become.

        EEXIST where anything is on the disk, unless it may be lost.

        base_bdev: Name, alias or UUID of the disk.
        partitions: The partitions, from the start of the disk on.
        disk_guid: UUID of the table; random when absent.
        overwrite: Whether what is there may be lost: a table, a file system, data of any kind.
            Default: False.
        """
        return self._typed(
            Methods.bdev_gpt_create,
            {
                "base_bdev": base_bdev,
                "partitions": partitions,
                "disk_guid": disk_guid,
                "overwrite": overwrite,
            },
        )

    def bdev_gpt_delete(
        self,
        *,
        base_bdev: str,
        overwrite: bool | None = None,
    ) -> bool:
        """Remove the partitions' bdevs and erase the table. ENOENT where there is none.

        base_bdev: Name, alias or UUID of the disk.
        overwrite: Whether to erase what is left of a table too: headers that are damaged, or
            without an MBR. Default: False.
        """
        return self._typed(
            Methods.bdev_gpt_delete,
            {
                "base_bdev": base_bdev,
                "overwrite": overwrite,
            },
        )

    def bdev_gpt_set_options(
        self,
        *,
        partition_types: Sequence[UUID | str] | None = None,
        any_type: bool | None = None,
    ) -> bool:
        """Take over which partitions are wanted, and look at the disks that nobody has claimed.

        partition_types: Type GUIDs; SPDK's two when absent.
        any_type: Partitions of all types. Default: False.
        """
        return self._typed(
            Methods.bdev_gpt_set_options,
            {
                "partition_types": partition_types,
                "any_type": any_type,
            },
        )

    def bdev_malloc_create(
        self,
        *,
        num_blocks: int,
        block_size: int,
        name: str | None = None,
        uuid: UUID | str | None = None,
        physical_block_size: int | None = None,
        md_size: int | None = None,
        dif_type: int | None = None,
        dif_is_head_of_md: bool | None = None,
        dif_pi_format: int | None = None,
        optimal_io_boundary: int | None = None,
        md_interleave: bool | None = None,
        numa_id: int | None = None,
        reserve: bool | None = None,
        populate: bool | None = None,
    ) -> str:
        """Create a bdev in memory.

        num_blocks: Size in blocks; at least 1.
        block_size: Bytes of data in a block; a multiple of 512.
        name: Name of the bdev; `Malloc<n>` when absent.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        physical_block_size: Bytes; a multiple of 512. 0: block_size. Default: 0.
        md_size: Bytes of metadata for each block: 0, 8, 16, 32, 64 or 128. Default: 0.
        dif_type: Type of protection information in the metadata, 1 to 3; 0 for none. Default: 0.
        dif_is_head_of_md: Protection information stands at the head of the metadata, not at its
            end. Default: False.
        dif_pi_format: 0, 1, 2: protection information with a guard of 16, 32, 64 bits. The first
            takes 8 bytes of metadata, the others 16. Default: 0.
        optimal_io_boundary: Blocks; I/O that crosses a multiple of it is split there. 0: none is.
            Default: 0.
        md_interleave: Metadata is part of each block, not in a buffer of its own. Default: False.
        numa_id: NUMA node whose memory is preferred; -1 for any. Default: -1.
        reserve: Refuse a disk of more memory than is available now; by default the log says so.
            Default: False.
        populate: Take all of its memory at creation, or fail; UNMAP gives it back all the same.
            Default: False.
        """
        return self._typed(
            Methods.bdev_malloc_create,
            {
                "num_blocks": num_blocks,
                "block_size": block_size,
                "name": name,
                "uuid": uuid,
                "physical_block_size": physical_block_size,
                "md_size": md_size,
                "dif_type": dif_type,
                "dif_is_head_of_md": dif_is_head_of_md,
                "dif_pi_format": dif_pi_format,
                "optimal_io_boundary": optimal_io_boundary,
                "md_interleave": md_interleave,
                "numa_id": numa_id,
                "reserve": reserve,
                "populate": populate,
            },
        )

    def bdev_malloc_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a malloc bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_malloc_delete,
            {
                "name": name,
            },
        )

    def bdev_nbd_create(
        self,
        *,
        name: str,
        uri: str,
        uuid: UUID | str | None = None,
        export_name: str | None = None,
        connections: int | None = None,
        reconnect_delay: int | None = None,
        timeout: int | None = None,
        readonly: bool | None = None,
        keeps_writes: bool | None = None,
    ) -> str:
        """Create a bdev on an export of an NBD server.

        name: Name of the bdev, unique among names, aliases and UUIDs.
        uri: The server: `nbd://host:port/export`, `nbd+unix:///export?socket=/path`, `unix:/path`
            or `tcp:host:port`.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        export_name: Name of the export, where the URI has none. Absent: the server's default
            export.
        connections: Connections for each reactor that uses the bdev. A server without
            CAN_MULTI_CONN gets one. Default: 1.
        reconnect_delay: Seconds that I/O waits for a lost server to come back. 0: it fails at once.
            Attempts to connect again go on either way. Default: 0.
        timeout: Seconds within which a request is answered; a connection that takes longer is given
            up. 0: there is no limit. Default: 60.
        readonly: Never write, even where the server would allow it. Default: False.
        keeps_writes: The server keeps what it has acknowledged when a connection, or its process,
            ends. Without this, acknowledged writes that no FLUSH has covered count as lost with
            their connection: every later FLUSH and FUA fails. Default: False.
        """
        return self._typed(
            Methods.bdev_nbd_create,
            {
                "name": name,
                "uri": uri,
                "uuid": uuid,
                "export_name": export_name,
                "connections": connections,
                "reconnect_delay": reconnect_delay,
                "timeout": timeout,
                "readonly": readonly,
                "keeps_writes": keeps_writes,
            },
        )

    def bdev_nbd_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a nbd bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_nbd_delete,
            {
                "name": name,
            },
        )

    def bdev_null_create(
        self,
        *,
        name: str,
        num_blocks: int,
        block_size: int,
        uuid: UUID | str | None = None,
        physical_block_size: int | None = None,
        md_size: int | None = None,
        dif_type: int | None = None,
        dif_is_head_of_md: bool | None = None,
        dif_pi_format: int | None = None,
        preferred_write_alignment: int | None = None,
        preferred_write_granularity: int | None = None,
        optimal_write_size: int | None = None,
        preferred_unmap_alignment: int | None = None,
        preferred_unmap_granularity: int | None = None,
    ) -> str:
        """Create a bdev that discards what is written to it.

        name: Name of the bdev, unique among names, aliases and UUIDs.
        num_blocks: Size in blocks; at least 1.
        block_size: Bytes of data in a block; a multiple of 512.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        physical_block_size: Bytes; a multiple of 512. 0: block_size. Default: 0.
        md_size: Bytes of metadata for each block: 0, 8, 16, 32, 64 or 128. Default: 0.
        dif_type: Type of protection information in the metadata, 1 to 3; 0 for none. Default: 0.
        dif_is_head_of_md: Protection information stands at the head of the metadata, not at its
            end. Default: False.
        dif_pi_format: 0, 1, 2: protection information with a guard of 16, 32, 64 bits. The first
            takes 8 bytes of metadata, the others 16. Default: 0.
        preferred_write_alignment: Blocks; a hint to writers, as are the next ones. Default: 0.
        preferred_write_granularity: Blocks. Default: 0.
        optimal_write_size: Blocks. Default: 0.
        preferred_unmap_alignment: Blocks. Default: 0.
        preferred_unmap_granularity: Blocks. Default: 0.
        """
        return self._typed(
            Methods.bdev_null_create,
            {
                "name": name,
                "num_blocks": num_blocks,
                "block_size": block_size,
                "uuid": uuid,
                "physical_block_size": physical_block_size,
                "md_size": md_size,
                "dif_type": dif_type,
                "dif_is_head_of_md": dif_is_head_of_md,
                "dif_pi_format": dif_pi_format,
                "preferred_write_alignment": preferred_write_alignment,
                "preferred_write_granularity": preferred_write_granularity,
                "optimal_write_size": optimal_write_size,
                "preferred_unmap_alignment": preferred_unmap_alignment,
                "preferred_unmap_granularity": preferred_unmap_granularity,
            },
        )

    def bdev_null_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a null bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_null_delete,
            {
                "name": name,
            },
        )

    def bdev_null_resize(
        self,
        *,
        name: str,
        new_size: int,
    ) -> bool:
        """Change a null bdev's size and tell its openers; EINVAL where that can not be.

        name: Name of the bdev.
        new_size: MiB. Growing always works, shrinking while nobody has the bdev open.
        """
        return self._typed(
            Methods.bdev_null_resize,
            {
                "name": name,
                "new_size": new_size,
            },
        )

    def bdev_passthru_create(
        self,
        *,
        name: str,
        base_bdev_name: str,
        uuid: UUID | str | None = None,
    ) -> str:
        """Create a passthru bdev.

        name: Name of the bdev, unique among names, aliases and UUIDs.
        base_bdev_name: Name, alias or UUID of the base bdev, which may arrive later.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        """
        return self._typed(
            Methods.bdev_passthru_create,
            {
                "name": name,
                "base_bdev_name": base_bdev_name,
                "uuid": uuid,
            },
        )

    def bdev_passthru_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a passthru bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_passthru_delete,
            {
                "name": name,
            },
        )

    def bdev_split_create(
        self,
        *,
        base_bdev: str,
        split_count: int,
        split_size_mb: int | None = None,
    ) -> list[str]:
        """Split a base; return the parts' names, none as long as the base is not there.

        base_bdev: Name, alias or UUID of the base bdev, which may arrive later.
        split_count: Number of parts. Where a size is given and so many do not fit, those that do.
        split_size_mb: Size of each part in MiB. 0: what the base has, divided by split_count.
            Default: 0.
        """
        return self._typed(
            Methods.bdev_split_create,
            {
                "base_bdev": base_bdev,
                "split_count": split_count,
                "split_size_mb": split_size_mb,
            },
        )

    def bdev_split_delete(
        self,
        *,
        base_bdev: str,
    ) -> bool:
        """Delete the parts of a base and the wish for them.

        base_bdev: What the base was called when it was split.
        """
        return self._typed(
            Methods.bdev_split_delete,
            {
                "base_bdev": base_bdev,
            },
        )

    def bdev_uring_create(
        self,
        *,
        name: str,
        filename: str,
        uuid: UUID | str | None = None,
        block_size: int | None = None,
        readonly: bool | None = None,
        direct: bool | None = None,
    ) -> str:
        """Create a bdev on an existing file or block device.

        name: Name of the bdev, unique among names, aliases and UUIDs.
        filename: Path of the file or block device.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        block_size: Bytes, a power of two of at least 512. 0: what the file asks for. Default: 0.
        readonly: Never write; other readers may have the file too. Default: False.
        direct: Bypass the page cache (O_DIRECT); where the file system allows it when absent.
        """
        return self._typed(
            Methods.bdev_uring_create,
            {
                "name": name,
                "filename": filename,
                "uuid": uuid,
                "block_size": block_size,
                "readonly": readonly,
                "direct": direct,
            },
        )

    def bdev_uring_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a uring bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_uring_delete,
            {
                "name": name,
            },
        )

    def bdev_uring_rescan(
        self,
        *,
        name: str,
    ) -> bool:
        """Follow a file's new size; a device that has none any more is hot-removed.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_uring_rescan,
            {
                "name": name,
            },
        )

    def bdev_zone_block_create(
        self,
        *,
        name: str,
        base_bdev: str,
        zone_capacity: int,
        optimal_open_zones: int,
        uuid: UUID | str | None = None,
    ) -> str:
        """Create a zoned bdev on a base that is not.

        name: Name of the bdev, unique among names, aliases and UUIDs.
        base_bdev: Name, alias or UUID of the base bdev, which may arrive later.
        zone_capacity: Blocks that can be written in each zone.
        optimal_open_zones: How many zones to write at once for the best speed; a hint.
        uuid: UUID of the bdev; made by the bdev layer when absent.
        """
        return self._typed(
            Methods.bdev_zone_block_create,
            {
                "name": name,
                "base_bdev": base_bdev,
                "zone_capacity": zone_capacity,
                "optimal_open_zones": optimal_open_zones,
                "uuid": uuid,
            },
        )

    def bdev_zone_block_delete(
        self,
        *,
        name: str,
    ) -> bool:
        """Delete a zone_block bdev.

        name: Name of the bdev.
        """
        return self._typed(
            Methods.bdev_zone_block_delete,
            {
                "name": name,
            },
        )

    def accel_crypto_keys_get(
        self,
        *,
        key_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """List the keys for encryption: there are none.

        key_name: Name of one; all when absent.
        """
        return self._typed(
            Methods.accel_crypto_keys_get,
            {
                "key_name": key_name,
            },
        )

    def framework_get_config(
        self,
        *,
        name: str,
        with_batches: bool | None = None,
    ) -> list[list[ConfigCall] | ConfigCall] | None:
        """The configuration of a subsystem, as the RPC calls that make it again.

        name: Name of the subsystem.
        with_batches: Put calls that may run together into an array of their own. Default: False.
        """
        return self._typed(
            Methods.framework_get_config,
            {
                "name": name,
                "with_batches": with_batches,
            },
        )

    def framework_get_governor(self) -> Governor:
        """Return the governor of CPU frequencies: nothing, because there is none."""
        return self._typed(Methods.framework_get_governor, {})

    def framework_get_reactors(self) -> ReactorList:
        """List the reactors and what runs on them."""
        return self._typed(Methods.framework_get_reactors, {})

    def framework_get_scheduler(self) -> Scheduler:
        """Return the scheduler of threads."""
        return self._typed(Methods.framework_get_scheduler, {})

    def framework_get_subsystems(self) -> list[Subsystem]:
        """List the parts that have a configuration, in the order of initialisation."""
        return self._typed(Methods.framework_get_subsystems, {})

    def framework_monitor_context_switch(
        self,
        *,
        enabled: bool | None = None,
    ) -> ContextSwitches:
        """Report the context switches of each reactor to the log, once a second; or say whether so.

        They are INFO messages of the component `reactor`. Each reactor wakes up for it.

        enabled: Whether to; absent: as it is.
        """
        return self._typed(
            Methods.framework_monitor_context_switch,
            {
                "enabled": enabled,
            },
        )

    def framework_set_scheduler(
        self,
        *,
        name: str,
        period: int | None = None,
        load_limit: int | None = None,
        core_limit: int | None = None,
        core_busy: int | None = None,
        mappings: str | None = None,
    ) -> bool:
        """Choose the scheduler of threads. There is one, `static`: each thread stays on its
        reactor.

        name: `static`; any other is refused.
        period: How often to schedule, in us; `static` never does.
        load_limit: Of SPDK's scheduler `dynamic`; `static` does not look at it.
        core_limit: The same.
        core_busy: The same.
        mappings: `thread:core` pairs, separated by commas. A thread can only be mapped to the core
            that it has (`framework_get_reactors`).
        """
        return self._typed(
            Methods.framework_set_scheduler,
            {
                "name": name,
                "period": period,
                "load_limit": load_limit,
                "core_limit": core_limit,
                "core_busy": core_busy,
                "mappings": mappings,
            },
        )

    def framework_start_init(self) -> bool:
        """Go on from the settling of options to the bdevs; the answer comes when all is there."""
        return self._typed(Methods.framework_start_init, {})

    def framework_wait_init(self) -> bool:
        """Wait until all that was asked for at the start is there."""
        return self._typed(Methods.framework_wait_init, {})

    def iobuf_get_stats(self) -> list[IobufModule]:
        """Say how often a data buffer was asked for, and where it came from."""
        return self._typed(Methods.iobuf_get_stats, {})

    def iobuf_set_options(
        self,
        *,
        small_pool_count: int | None = None,
        large_pool_count: int | None = None,
        small_bufsize: int | None = None,
        large_bufsize: int | None = None,
        enable_numa: bool | None = None,
    ) -> bool:
        """Bound the memory for data buffers, before the bdev layer starts. What is absent stays.

        The buffers of each reactor may add up to as much as SPDK's two pools have together: 256 MiB
        without this call, 196 MiB with SPDK's defaults. Sizes are powers of two, cut as needed.

        small_pool_count: Small buffers, 64 at least; 8192 by default.
        large_pool_count: Large buffers, 8 at least; 1024 by default.
        small_bufsize: Bytes of a small one, 4096 at least; 8192 by default. What is up to this
            counts as small in `iobuf_get_stats`.
        large_bufsize: Bytes of a large one, 8192 at least; 135168 by default.
        enable_numa: Memory near to who uses it: each reactor has its own anyway, on the node it
            runs on.
        """
        return self._typed(
            Methods.iobuf_set_options,
            {
                "small_pool_count": small_pool_count,
                "large_pool_count": large_pool_count,
                "small_bufsize": small_bufsize,
                "large_bufsize": large_bufsize,
                "enable_numa": enable_numa,
            },
        )

    def log_clear_flag(
        self,
        *,
        flag: str,
    ) -> bool:
        """Let a component say nothing below NOTICE.

        flag: One of those that `log_get_flags` lists, or `all`; or a pattern, `vbdev_*`.
        """
        return self._typed(
            Methods.log_clear_flag,
            {
                "flag": flag,
            },
        )

    def log_enable_timestamps(
        self,
        *,
        enabled: bool,
    ) -> bool:
        """Begin each message on the console with the time, or no more.

        enabled: Whether each message on the console begins with the time.
        """
        return self._typed(
            Methods.log_enable_timestamps,
            {
                "enabled": enabled,
            },
        )

    def log_get_flags(self) -> dict[str, bool]:
        """Return each component's flag."""
        return self._typed(Methods.log_get_flags, {})

    def log_get_level(self) -> str:
        """Return what goes to syslog."""
        return self._typed(Methods.log_get_level, {})

    def log_get_print_level(self) -> str:
        """Return what goes to the console (stderr)."""
        return self._typed(Methods.log_get_print_level, {})

    def log_set_flag(
        self,
        *,
        flag: str,
    ) -> bool:
        """Let a component say what is INFO and DEBUG, where the levels let it out.

        flag: One of those that `log_get_flags` lists, or `all`; or a pattern, `vbdev_*`.
        """
        return self._typed(
            Methods.log_set_flag,
            {
                "flag": flag,
            },
        )

    def log_set_level(
        self,
        *,
        level: Literal["DEBUG", "ERROR", "INFO", "NOTICE", "WARNING"],
    ) -> bool:
        """Set what goes to syslog.

        level: The least severe level that goes out.
        """
        return self._typed(
            Methods.log_set_level,
            {
                "level": level,
            },
        )

    def log_set_print_level(
        self,
        *,
        level: Literal["DEBUG", "ERROR", "INFO", "NOTICE", "WARNING"],
    ) -> bool:
        """Set what goes to the console (stderr).

        level: The least severe level that goes out.
        """
        return self._typed(
            Methods.log_set_print_level,
            {
                "level": level,
            },
        )

    def nbd_export_add(
        self,
        *,
        bdev_name: str,
        export_name: str | None = None,
        read_only: bool | None = None,
        description: str | None = None,
        strict_blocks: bool | None = None,
    ) -> str:
        """Export a bdev; the answer is the name of the export.

        bdev_name: Name, alias or UUID of the bdev.
        export_name: Name that clients ask for; the bdev's when absent.
        read_only: Refuse every write with EPERM. Default: False.
        description: For humans, shown by `nbdinfo`.
        strict_blocks: Whether requests have to be whole blocks. Otherwise they may begin and end at
            any byte, and what they leave of a block is read and written with them. As the server
            has it when absent.
        """
        return self._typed(
            Methods.nbd_export_add,
            {
                "bdev_name": bdev_name,
                "export_name": export_name,
                "read_only": read_only,
                "description": description,
                "strict_blocks": strict_blocks,
            },
        )

    def nbd_export_remove(
        self,
        *,
        export_name: str,
    ) -> bool:
        """Take an export away; its clients are disconnected in order.

        export_name: Name of the export.
        """
        return self._typed(
            Methods.nbd_export_remove,
            {
                "export_name": export_name,
            },
        )

    def nbd_get_disks(
        self,
        *,
        nbd_device: str | None = None,
    ) -> list[NbdDisk]:
        """List the bdevs that are block devices of this machine.

        nbd_device: Path of the one device; all when absent.
        """
        return self._typed(
            Methods.nbd_get_disks,
            {
                "nbd_device": nbd_device,
            },
        )

    def nbd_get_exports(self) -> list[Export]:
        """List what the NBD server exports."""
        return self._typed(Methods.nbd_get_exports, {})

    def nbd_server_start(
        self,
        *,
        address: str,
        max_connections: int | None = None,
    ) -> str:
        """Serve NBD on an address; the answer is the address, with the port that was chosen.

        address: `unix:/path`, or `tcp:host:port`, port 0 for one that the kernel chooses.
        max_connections: Clients at most, on all addresses together; 0 for no limit. When absent, as
            before.
        """
        return self._typed(
            Methods.nbd_server_start,
            {
                "address": address,
                "max_connections": max_connections,
            },
        )

    def nbd_server_stop(
        self,
        *,
        address: str,
    ) -> bool:
        """Serve NBD on an address no longer. Clients that are connected stay.

        address: `unix:/path`, or `tcp:host:port`, port 0 for one that the kernel chooses.
        """
        return self._typed(
            Methods.nbd_server_stop,
            {
                "address": address,
            },
        )

    def nbd_start_disk(
        self,
        *,
        bdev_name: str,
        nbd_device: str | None = None,
    ) -> str:
        """Make a bdev a block device of this machine; the answer is its path, once it runs.

        bdev_name: Name, alias or UUID of the bdev.
        nbd_device: Path of the device, `/dev/nbd0` or another; the first that is free when absent.
        """
        return self._typed(
            Methods.nbd_start_disk,
            {
                "bdev_name": bdev_name,
                "nbd_device": nbd_device,
            },
        )

    def nbd_stop_disk(
        self,
        *,
        nbd_device: str,
    ) -> bool:
        """Take a block device away; the answer comes when the device and the bdev are free.

        nbd_device: Path of the device.
        """
        return self._typed(
            Methods.nbd_stop_disk,
            {
                "nbd_device": nbd_device,
            },
        )

    def notify_get_notifications(
        self,
        *,
        id: int | None = None,
        max: int | None = None,
    ) -> list[Notification]:
        """List events, oldest first. The last 1024 are kept.

        id: Number of the first event to list. Default: 0.
        max: How many to list at most.
        """
        return self._typed(
            Methods.notify_get_notifications,
            {
                "id": id,
                "max": max,
            },
        )

    def notify_get_types(self) -> list[str]:
        """List the types of events."""
        return self._typed(Methods.notify_get_types, {})

    def rpc_get_methods(
        self,
        *,
        current: bool | None = None,
        include_aliases: bool | None = None,
    ) -> list[str]:
        """List the RPC methods.

        current: Only those that can be called in the present state. Default: False.
        include_aliases: Deprecated names too; there are none. Default: False.
        """
        return self._typed(
            Methods.rpc_get_methods,
            {
                "current": current,
                "include_aliases": include_aliases,
            },
        )

    def rpc_get_schema(self) -> dict[str, Any]:
        """Describe every method, those of modules included, as an OpenRPC document."""
        return self._typed(Methods.rpc_get_schema, {})

    def spdk_get_version(self) -> Version:
        """Return the version of the daemon."""
        return self._typed(Methods.spdk_get_version, {})

    def spdk_kill_instance(
        self,
        *,
        sig_name: Literal["SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1"],
    ) -> bool:
        """Send this process a signal; the answer comes first.

        sig_name: The signal. All but SIGKILL and SIGUSR1, which is ignored, end the daemon in
            order.
        """
        return self._typed(
            Methods.spdk_kill_instance,
            {
                "sig_name": sig_name,
            },
        )

    def thread_get_io_channels(self) -> IoChannels:
        """List the bdevs that each thread has a channel to."""
        return self._typed(Methods.thread_get_io_channels, {})

    def thread_get_pollers(self) -> ThreadsPollers:
        """List what each thread calls again and again."""
        return self._typed(Methods.thread_get_pollers, {})

    def thread_get_stats(self) -> ThreadsStats:
        """Say how busy each thread is."""
        return self._typed(Methods.thread_get_stats, {})

    def thread_set_cpumask(
        self,
        *,
        id: int,
        cpumask: str,
    ) -> bool:
        """Bind a thread to CPUs.

        id: Number of the thread (`thread_get_stats`).
        cpumask: CPUs as a hexadecimal mask (3, 0x3) or a list ([0,2-3]). Those that the daemon was
            not given at its start are left out; one at least has to remain.
        """
        return self._typed(
            Methods.thread_set_cpumask,
            {
                "id": id,
                "cpumask": cpumask,
            },
        )

    def vbdev_get_holders(
        self,
        *,
        name: str | None = None,
    ) -> list[Holders]:
        """Say who has bdevs open or claimed, and whom a removal waits for.

        name: Name, alias or UUID of one bdev; all when absent.
        """
        return self._typed(
            Methods.vbdev_get_holders,
            {
                "name": name,
            },
        )

    def vbdev_get_stack(self) -> list[StackEntry]:
        """List every bdev with its base, its claim and who has it open, and what still waits."""
        return self._typed(Methods.vbdev_get_stack, {})

    def vbdev_unregister(
        self,
        *,
        name: str,
        timeout_ms: int | None = None,
    ) -> bool:
        """Delete a bdev of any kind.

        name: Name, alias or UUID of the bdev.
        timeout_ms: After this long the answer is ETIMEDOUT, which names the holders; the removal
            goes on.
        """
        return self._typed(
            Methods.vbdev_unregister,
            {
                "name": name,
                "timeout_ms": timeout_ms,
            },
        )
