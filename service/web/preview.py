"""Show beforehand what a PACS with another profile would get of a film that was read; made from the copy without identity."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from models import pixels
from service.errors import InvalidConfiguration, Permanent
from service.profiles import Profiles, named
from service.reporting import sr_html
from service.web.overview import reading_of
from service.web.pages import Pages, film_number

# The report brings its one style sheet with it, and nothing else may be loaded or run.
_STYLE: Final = base64.b64encode(hashlib.sha256(sr_html.STYLE.encode()).digest()).decode()
REPORT_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE}'; frame-ancestors 'none'; sandbox"


@dataclass
class PreviewPage:
    """The page and the files it shows."""

    pages: Pages

    def show(self, request: Request) -> Response:
        """Show the page: the profile that was asked for, and which one each destination has."""
        job = self.pages.jobs.get(film_number(request))
        settings = self.pages.settings
        profiles = Profiles(self.pages.jobs.engine, settings)
        used = {destination.name: profiles.of(destination)[0] for destination in settings.destinations}
        name = request.query_params.get("profile") or next(iter(used.values()), "everything")
        if name not in settings.known_profiles:  # written out in the settings, under no name
            name = "everything"
        return self.pages.page(
            request,
            "preview.html",
            job=job,
            chosen=name,
            profile=named(settings, name),
            known=list(settings.known_profiles),
            used=used,
            query=urlencode({"profile": name}),
        )

    def file(self, request: Request) -> Response:
        """Return one of the objects in a form that a browser shows."""
        from service.reporting import preview  # the pages alone need none of it

        forms = {form[0]: (kind, form) for kind, form in preview.FORMS.items()}
        job = self.pages.jobs.get(film_number(request))
        reading = reading_of(job)
        if request.path_params["file"] not in forms or reading is None or job.deidentified_name is None:
            raise HTTPException(404, "There is no such preview of this film.")
        kind, (_, media_type, _, make) = forms[request.path_params["file"]]
        try:
            profile = named(self.pages.settings, request.query_params.get("profile", "everything"))
            with self.pages.drawing:
                path = self.pages.deidentified.path(job.deidentified_name)
                alone = profile.model_copy(update={"objects": (kind,)})
                built = preview.build(preview.nameless(path), reading, pixels.load(path), alone)
        except InvalidConfiguration as error:
            raise HTTPException(404, str(error)) from error
        except (pixels.UnreadablePixels, Permanent, OSError) as error:
            raise HTTPException(
                404, "The copy of this film that the preview is made from is not kept any more."
            ) from error
        if kind not in built:
            raise HTTPException(404, "A film that was not read has no such object.")
        headers = {"Content-Security-Policy": REPORT_POLICY} if kind == "SR" else None
        return Response(make(built[kind]), media_type=media_type, headers=headers)
