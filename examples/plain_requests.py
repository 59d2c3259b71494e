"""The four steps of the API with only `requests`: submit, poll, build the URL, download.

UMRGEN_BASE_URL=... UMRGEN_API_KEY=... python plain_requests.py "a lighthouse at dusk"
"""

import os
import sys
import time
from pathlib import Path

import requests

base_url = os.environ["UMRGEN_BASE_URL"].rstrip("/")
headers = {"Authorization": f"Bearer {os.environ['UMRGEN_API_KEY']}"}

submitted = requests.post(f"{base_url}/api/v1/generate", json={"prompt": sys.argv[1]}, headers=headers, timeout=30)
submitted.raise_for_status()
job_id = submitted.json()["job_id"]

while True:
    response = requests.get(f"{base_url}/api/v1/status/{job_id}", headers=headers, timeout=30)
    response.raise_for_status()
    job = response.json()
    if job["state"] == "failed":
        sys.exit(f"job {job_id} failed: {job['error']}")
    if job["state"] == "completed":
        break
    time.sleep(job["retry_after_ms"] / 1000)

image = requests.get(base_url + job["image_url"], timeout=60)
image.raise_for_status()
with Path(f"{job_id}.png").open("xb") as file:
    file.write(image.content)
print(f"{job_id}.png")
