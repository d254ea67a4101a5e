"""Model versions: registered by training, described by evaluation, found by name and alias."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.config import nearest
from cliploom.errors import InputError
from cliploom.registry import cards, history, package, store
from cliploom.registry.tracking import metric_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
EVALUATION = "evaluation"  # tag: passed or failed
_DIGEST = "weights_digest"  # tag: which weights these are
DIGESTS = "file_digests"  # tag: of all files, by name
_MODEL_ID = "logged_model_id"  # tag: MLflow's model that the version is a version of
_PAGE = 200  # versions a request
_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))$")

Row = Mapping[str, Any]  # of results.json: suite, model, version, dataset, task, metric, value, low, high, samples


@dataclass(frozen=True)
class Version:
    """A version of a registered model, as it stood when it was read."""

    name: str
    version: int
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    source: str  # URI of the folder of the MLflow model
    card: str  # Markdown
    created: datetime

    @property
    def uri(self) -> str:
        """The URI that names exactly this version."""
        return f"models:/{self.name}/{self.version}"


def register(
    uri: str,
    model_name: str,
    run_id: str,
    folder: Path,
    tags: Mapping[str, str],
    card: str,
    alias: str = CANDIDATE,
) -> Version:
    """Make the weights in `folder` a version of `model_name` with the alias `alias`.

    The version comes into being last, when all its files are in the store. The same weights of the same run are
    registered once: a second call finds the version, and gives it the alias unless a newer version is there.

    Args:
        uri: of the store.
        model_name: made where there is none.
        run_id: the run that trained it.
        folder: with `weights.safetensors` and `config.json`.
        tags: of the version.
        card: its description, Markdown.
        alias: that moves to it.

    Raises:
        InputError: the server gives no permission.
    """
    client = store.client(uri)
    digests = package.digests(folder)
    digest = f"sha256:{digests[package.WEIGHTS]}"
    with store.permitted(uri):
        known = _all(client, model_name) if _find_model(client, model_name) else []
    same = next((v for v in known if v.run_id == run_id and v.tags.get(_DIGEST) == digest), None)
    with store.permitted(uri):
        if same is None:
            version = _create(
                client, model_name, run_id, folder, {**tags, _DIGEST: digest, DIGESTS: json.dumps(digests)}, card
            )
        else:
            version = same.version
        if version >= max((v.version for v in known), default=version):
            client.set_registered_model_alias(model_name, alias, str(version))
    return _get(client, model_name, version)


def resolve(uri: str, model_uri: str) -> Version:
    """The version that `models:/NAME/VERSION` or `models:/NAME@ALIAS` names.

    Raises:
        InputError: it is not written so, or there is no such model, version or alias.
    """
    match = _URI.match(model_uri)
    if not match:
        raise InputError(f"{model_uri} is no model version: write models:/NAME@ALIAS or models:/NAME/VERSION")
    name = match["name"]
    known = versions(uri, name)
    if alias := match["alias"]:
        found = [v for v in known if alias in v.aliases]
        there = sorted({a for v in known for a in v.aliases})
    else:
        found = [v for v in known if v.version == int(match["version"])]
        there = [str(v.version) for v in known]
    if not found:
        what = f"no alias {alias}" if alias else f"no version {match['version']}"
        raise InputError(f"{model_uri}: the model has {what}; there is {', '.join(there) or 'none'}")
    return found[0]


def versions(uri: str, name: str) -> list[Version]:
    """All versions of the model `name`, oldest first.

    Raises:
        InputError: there is no such model.
    """
    check_model(uri, name)
    with store.permitted(uri):
        return _all(store.client(uri), name)


def check_model(uri: str, name: str) -> None:
    """Find out whether there is a registered model of this name.

    Raises:
        InputError: there is not; names the nearest that is.
    """
    client = store.client(uri)
    with store.permitted(uri):
        if not _find_model(client, name):
            known = [model.name for model in client.search_registered_models()]
            raise InputError(f"there is no registered model {name} in {store.redact(uri)}{nearest(name, known)}")


def champion(uri: str, name: str) -> Version | None:
    """The version that is approved for use, if there is one."""
    return next((v for v in versions(uri, name) if CHAMPION in v.aliases), None)


def candidates(uri: str, name: str) -> list[Version]:
    """The versions that are not evaluated yet, oldest first."""
    return [v for v in versions(uri, name) if EVALUATION not in v.tags]


def set_tags(uri: str, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version; others stay.

    Raises:
        InputError: the server gives no permission.
    """
    client = store.client(uri)
    with store.permitted(uri):
        for key, value in tags.items():
            client.set_model_version_tag(version.name, str(version.version), key, value)


def download(uri: str, version: Version, to: Path) -> Path:
    """Bring the weights of a version here.

    Args:
        uri: of the store.
        version: whose weights.
        to: folder to put them below.

    Returns:
        The folder with `weights.safetensors` and `config.json`.

    Raises:
        InputError: the weights are not those that were registered.
    """
    client = store.client(uri)
    from mlflow.artifacts import download_artifacts

    to.mkdir(parents=True, exist_ok=True)
    with store.permitted(uri):
        # Not `models:/NAME/VERSION`: MLflow looks that up in the process's default store, which need not be this one.
        stored = client.get_model_version_download_uri(version.name, str(version.version))
        source = f"{stored}/{package.FOLDER}"
        folder = Path(download_artifacts(source, dst_path=str(to), tracking_uri=uri))
    found = package.digests(folder)
    for name, registered in _registered_digests(version).items():
        if found.get(name) != registered:
            raise InputError(f"{version.uri}: the stored {name} is not the one that was registered ({registered})")
    return folder


def record_evaluation(
    uri: str, version: Version, results: Sequence[Row], files: Path, passed: bool, reasons: Sequence[str]
) -> None:
    """Write the outcome of an evaluation to the version's run, card and tags; the tag `evaluation` comes last.

    Args:
        uri: of the store.
        version: that was evaluated.
        results: its rows.
        files: folder of what else is kept with the run (report, plots).
        passed: whether it passed the gates.
        reasons: why not, a sentence each.
    """
    from mlflow.entities import Metric

    now, step = int(time.time() * 1000), int(version.tags.get("samples_seen", 0))
    model_id = version.tags.get(_MODEL_ID)
    metrics = [
        Metric(metric_name(f"{row['dataset']}/{row['metric']}"), row["value"], now, step, model_id=model_id)
        for row in results
    ]
    outcome = "passed" if passed else "failed"
    text = cards.with_results(
        version.card, results, f"Evaluation {outcome}{': ' if reasons else '.'}{'; '.join(reasons)}"
    )
    when = datetime.now(UTC).isoformat(timespec="seconds")
    client = store.client(uri)
    with store.permitted(uri):
        client.log_artifacts(version.run_id, str(files), _folder(version))
        client.log_text(version.run_id, json.dumps(list(results), indent=1), f"{_folder(version)}/results.json")
        client.log_batch(version.run_id, metrics=metrics)
        client.update_model_version(version.name, str(version.version), text)
    tags = {"evaluation.when": when, "evaluation.reasons": " ".join(reasons), EVALUATION: outcome}
    set_tags(uri, version, tags)


def results(uri: str, version: Version) -> list[dict[str, Any]]:
    """The rows of the version's last evaluation; none where there was none."""
    client = store.client(uri)
    path = f"{_folder(version)}/results.json"
    with store.permitted(uri), tempfile.TemporaryDirectory() as temporary:
        if path not in {file.path for file in client.list_artifacts(version.run_id, _folder(version))}:
            return []
        rows: list[dict[str, Any]] = json.loads(
            Path(client.download_artifacts(version.run_id, path, temporary)).read_text()
        )
    return rows


def _folder(version: Version) -> str:
    """Where the run keeps the evaluation of this version; a run may have several versions."""
    return f"evaluation/{version.name}-{version.version}"


def _create(client: MlflowClient, name: str, run_id: str, folder: Path, tags: Mapping[str, str], card: str) -> int:
    """Upload the model and make it a version; returns its number."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    _make_model(client, name, run_id)
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name, run_id, model_type="clip")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, "model")
            package.write(path, folder, run_id, logged.model_id, logged.artifact_location)
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException:
        with contextlib.suppress(MlflowException), store.impatient():  # what it failed of is what is to be told
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    # The source is a location: MLflow looks `models:/ID` up in the process's default store, which need not be this one.
    made = client.create_model_version(
        name,
        logged.artifact_location,
        run_id,
        {**tags, _MODEL_ID: logged.model_id},
        description=card,
        model_id=logged.model_id,
    )
    return int(made.version)


def _make_model(client: MlflowClient, name: str, run_id: str) -> None:
    """Make the registered model `name` where there is none; the run of its first version keeps its history."""
    from mlflow.exceptions import MlflowException

    if _find_model(client, name):
        return
    try:
        client.create_registered_model(name, {history.JOURNAL: run_id})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run was quicker
            raise


def _find_model(client: MlflowClient, name: str) -> Any:
    """MLflow's registered model of this name, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _all(client: MlflowClient, name: str) -> list[Version]:
    page = client.search_model_versions(f"name = '{name}'", max_results=_PAGE)
    found = list(page)
    while page.token:
        page = client.search_model_versions(f"name = '{name}'", max_results=_PAGE, page_token=page.token)
        found += page
    aliases: dict[int, list[str]] = {}
    for alias, number in _find_model(client, name).aliases.items():
        aliases.setdefault(int(number), []).append(alias)
    return sorted((_version(one, aliases.get(int(one.version), [])) for one in found), key=lambda v: v.version)


def _get(client: MlflowClient, name: str, version: int) -> Version:
    found = client.get_model_version(name, str(version))
    return _version(found, found.aliases)


def _version(found: Any, aliases: Sequence[str]) -> Version:
    return Version(
        name=found.name,
        version=int(found.version),
        run_id=found.run_id,
        tags=dict(found.tags),
        aliases=tuple(sorted(aliases)),
        source=found.source,
        card=found.description or "",
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
    )


def _registered_digests(version: Version) -> dict[str, str]:
    """By file; of a version that was registered when the weights' alone was kept, that one."""
    if DIGESTS in version.tags:
        found: dict[str, str] = json.loads(version.tags[DIGESTS])
        return found
    weights = version.tags.get(_DIGEST)
    return {package.WEIGHTS: weights.removeprefix("sha256:")} if weights else {}
