"""Ways to serve the model without Cog: RunPod, Modal, an HTTP API, batches. They share `service.Service`."""
