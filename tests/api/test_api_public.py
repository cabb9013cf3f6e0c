"""The public API is a promise: what agents call keeps its name, its arguments and its fields.

To change a line here is to break somebody's agent, so it goes with a notice in the changelog. New names and new fields
are welcome: they are written down here, too.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap

import pytest

from blocksync import api

# Arguments as they are given: "*" before those that are named only, "=" behind those that may be left out.
FUNCTIONS = {
    "abench": "source=, options=",
    "aestimate": "source, options=",
    "areceive": "options",
    "asend": "source, options",
    "atransfer": "disks, options",
    "averify": "source, options",
    "bench": "source=, options=, *cancel=",
    "boot_test": "target, options=, *beside=, *cancel=",
    "check": "options, *cancel=",
    "check_flattened": "target, *beside=",
    "clean_snapshots": "*kept=, *state_dir=",
    "copy": "source, target, options=, *cancel=",
    "default_state_dir": "",
    "delete_transfer": "which, state_dir=",
    "estimate": "source, options=, *cancel=",
    "flatten": "sources, target, options=, *cancel=",
    "inspect": "disks",
    "kept_snapshots": "",
    "limit_transfer": "which, changes, state_dir=",
    "manifests": "state_dir=",
    "peers": "state_dir=",
    "plan_flatten": "sources, options=, *targets=",
    "rebuild": "slot, target, state_dir=, *progress=, *cancel=",
    "receive": "options, *cancel=",
    "repair_flattened": "target, *beside=, *dry_run=, *rebuild_initramfs=, *skip=, *state_dir=",
    "revoke": "who, state_dir=",
    "send": "source, options, *cancel=",
    "send_disks": "disks, options, *cancel=",
    "stop_transfer": "which, state_dir=, *final=",
    "transfer": "disks, options, *cancel=",
    "transfer_flattened": "sources, options, flatten, *cancel=",
    "transfers": "state_dir=",
    "verify": "source, options, *cancel=",
    "verify_receipt": "path, *sender=, *receiver=, *state_dir=",
}

RECORDS = {
    "BenchOptions": "folder link",
    "BenchResult": "source cores zero_share stages passes",
    "BootOptions": "firmware folder seconds memory_mib",
    "CheckOptions": "sources to slot targets system state_dir progress",
    "CheckResult": "findings",
    "CopyOptions": (
        "create overwrite state_dir digest block_bytes replace rescue all_blocks exclude remove_excluded progress"
    ),
    "DiskOutcome": "source slot result code error",
    "DiskSpec": "source slot",
    "EstimateOptions": "to slot code ask_code state_dir connections level bwlimit watch pause flatten seed progress",
    "EstimateResult": (
        "source slot to generation figures link seconds preparation transfer commit verify wire rate "
        "bottleneck level target changes took divide repair"
    ),
    "Finding": "code severity what remedy exit_code",
    "FlattenOptions": (
        "create overwrite state_dir digest block_bytes replace table grow encrypted names repair "
        "rebuild_initramfs skip onto place overwrite_onto progress"
    ),
    "FlattenResult": (
        "group table partitions root changed loaders notes boot forecasts tables targets root_target"
    ),
    "GroupResult": "disks seconds",
    "Limits": "bandwidth read max_latency nice",
    "Listening": "control_port data_port code fingerprint slots status_port codes",
    "ManifestInfo": (
        "slot size block_bytes digest generation pass_open known_bytes epoch manifest_bytes source_identity root"
    ),
    "PeerInfo": "name fingerprint slots since",
    "Progress": ("stage slot size done durable wire read changed seconds bottleneck level kind message detail"),
    "RateWindow": "begin end rate",
    "ReceiptInfo": "sender receiver sender_fingerprint receiver_fingerprint sender_known receiver_known",
    "ReceiveOptions": (
        "targets listen control_port data_port state_dir code_file once user status_listen repair "
        "boot_test senders memory code_folder progress on_listening"
    ),
    "ReceiveResult": "committed",
    "Removal": "slot removed remaining",
    "Schedule": "windows otherwise",
    "SendOptions": (
        "to slot code ask_code state_dir connections digest block_bytes level bwlimit retry_seconds "
        "replace rescue transfer all_blocks snapshot snapshot_bytes track exclude progress"
    ),
    "SendResult": (
        "slot kind generation size read changed zero wire resent resumed retries seconds level "
        "bottleneck root consistency tracker unreadable unused notes excluded excluded_files "
        "excluded_bytes excluded_names unnamed removal predicted"
    ),
    "TargetSpec": "path slot create_size overwrite",
    "TransferEvent": "kind transfer facts",
    "TransferOptions": (
        "send follow until_converged final pre_final post_final freeze_seconds verify remove_excluded validity_days "
        "limits receipt keep_quiet on_event"
    ),
    "TransferResult": (
        "transfer state passes seconds consistency predicted_pause disks verified receipt pause forecasts removals"
    ),
    "TransferStatus": (
        "id to state running disks created touched expires until mode pass_count lag change_rate "
        "predicted_pause fault receipt passes limits moments pause forecasts"
    ),
    "VerifyOptions": "to slot code ask_code state_dir all_blocks exclude progress",
    "VerifyResult": "slot identical size seconds differing differing_bytes unused notes",
}

OTHERS = {"Cancel", "Digest", "Source"}


def arguments(function: object) -> str:
    assert callable(function)
    told = []
    for parameter in inspect.signature(function).parameters.values():
        star = "*" if parameter.kind is parameter.KEYWORD_ONLY else ""
        told.append(star + parameter.name + ("" if parameter.default is parameter.empty else "="))
    return ", ".join(told)


def test_nothing_is_public_that_is_not_written_down() -> None:
    assert set(api.__all__) == {*FUNCTIONS, *RECORDS, *OTHERS}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_what_they_took(name: str) -> None:
    assert arguments(getattr(api, name)) == FUNCTIONS[name]


@pytest.mark.parametrize("name", RECORDS)
def test_records_have_the_fields_they_had_and_are_frozen(name: str) -> None:
    record = getattr(api, name)
    assert [field.name for field in dataclasses.fields(record)] == RECORDS[name].split()
    assert record.__dataclass_params__.frozen
    given = list(inspect.signature(record).parameters.values())
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in given), "fields are given by name"


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, *RECORDS, *OTHERS}))
def test_everything_public_says_what_it_is(name: str) -> None:
    told = inspect.getdoc(getattr(api, name)) or ""
    assert told
    assert not told.startswith(f"{name}("), "dataclasses write a line of their own where there is none"


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_is_described(name: str) -> None:
    record = getattr(api, name)
    told = textwrap.dedent(record.__doc__ or "")
    silent = [field.name for field in dataclasses.fields(record) if not re.search(rf"\b{field.name}\b", told)]
    assert silent == []
