"""Training runs in a Kubernetes cluster, each as a Job or TrainJob."""
